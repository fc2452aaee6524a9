"""Frames of a video by their index, from a folder of images or a video file, through a bounded cache."""

import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import dropwhile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pointsuite.engine.errors import UsageError
from pointsuite.engine.files import open_regular
from pointsuite.engine.images import SUFFIXES as IMAGE_SUFFIXES
from pointsuite.engine.images import pixel_limit, read_array, to_colour

from .containers import check_whole

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
COLORS = {"grey": 1, "rgb": 3, "bgr": 3}
FORMATS = "avi,matroska,mov,mpeg,mpegvideo,mpegts,m4v,h264,hevc,flv,asf,ogg"  # none that names other files
SEEK = 64  # frames that are decoded on the way rather than passed over


class ImageFolderReader:
    """Images of one folder as frames, in the order of their names; hidden files are none."""

    def __init__(self, folder: Path):
        self.paths = list_frames(folder)
        self.length, self.fps = len(self.paths), None

    def decode(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        """Frames (index, uint8 (H, W, 3) in the order blue, green, red) up to this one, which is the last."""
        path = self.paths[index]
        pixels, _ = read_array(path)
        yield index, np.ascontiguousarray(to_colour(_drop_alpha(pixels), str(path))[..., ::-1])


class VideoFileReader:
    """Frames of a video file, in the order in which they are shown, upright.

    The head's number of frames counts where the packets bear it out. Elsewhere (Matroska, WebM, MPEG, edited
    or irregular files) the video is decoded once, when it is opened, to count them. A jump goes to the key
    frame before by its time stamp; where time stamps do not lead to it, reading begins anew. So each frame is
    the one that reading from the start has at its place.

    Raises:
        OSError: no video; one that is damaged or ends too early, as far as its format tells (MPEG streams may
            end anywhere); frames of more pixels than :func:`~pointsuite.engine.images.pixel_limit`.
    """

    def __init__(self, path: Path):
        self.path, self.length, self._process, self.fps = path, 0, None, None
        with self._named():
            times, keys = self._index_packets() or self._index_frames()
        self.length = len(times)
        if None in times or (np.diff(times) <= 0).any():
            times, keys = [0] * self.length, []
        self._times, self._keys = np.array(times, np.int64), np.array(keys, np.int64)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_process": None, "_frames": None}

    def decode(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        """As of :class:`ImageFolderReader`; also the frames on the way from where reading stood."""
        if self._process != os.getpid():  # a data worker: processes must not share a decoder
            self._start(0)
        jumps = not 0 <= index - self._position <= SEEK
        if jumps and not self._find_key(index) <= self._position <= index:
            self._start(self._find_key(index))
        while self._position <= index:
            with self._named():
                found = next(self._frames, None)
            if found is None and self._first:  # the jump missed
                self._keys = self._keys[self._keys != self._first]
                self._start(self._find_key(index))
            elif found is None:
                raise OSError(self._lost("it ends before"))
            else:
                self._position += 1
                if not jumps or self._position > index:
                    yield self._position - 1, _turn(found.to_ndarray(format="bgr24"), found.rotation)

    def _find_key(self, index: int) -> int:
        place = np.searchsorted(self._keys, index, "right")
        return int(self._keys[place - 1]) if place else 0

    def _start(self, first: int) -> None:
        self._process, self._position, self._first = os.getpid(), first, first
        self._frames = self._read_from(first)

    def _read_from(self, first: int) -> Iterator[Any]:
        """Frames from a key frame on; it ends where a time stamp is not that of the frame which is due."""
        container, stream = self._open()
        frames = self._decode(container, stream)
        if first:
            early = 4 if "mpeg" in container.format.name else 0  # streams are searched by times of decoding
            container.seek(int(self._times[max(first - early, 0)]), stream=stream)
            frames = dropwhile(lambda frame: frame.pts is not None and frame.pts < self._times[first], frames)
        for i, frame in enumerate(frames, first):
            missed = i >= self.length or frame.pts != self._times[i] or (i == first and not frame.key_frame)
            if first and missed:
                return
            yield frame

    def _index_packets(self) -> tuple[list, list] | None:
        """Time stamps of the frames and numbers of the key frames, without decoding, where that can be."""
        container, stream = self._open()
        packets = [packet for packet in container.demux(stream) if packet.size]
        index = getattr(stream, "index_entries", ())  # which PyAV for Python 3.10 does not show
        listed = sum(entry.size > 0 for entry in index)
        kind = container.format.name
        if listed > len(packets) or ("mpeg" not in kind and any(packet.is_corrupt for packet in packets)):
            raise ValueError(f"it is damaged: found {len(packets)} frames, some not whole, or fewer than its "
                             f"index lists ({listed})")  # fmt: skip
        times = sorted({packet.pts for packet in packets if packet.pts is not None and not packet.is_discard})
        if len(times) != stream.frames or len(packets) != stream.frames:
            return None
        if kind == "avi" and stream.codec_context.has_b_frames:  # whose time stamps are those of decoding
            return None
        return times, np.searchsorted(times, sorted(p.pts for p in packets if p.is_keyframe)).tolist()

    def _index_frames(self) -> tuple[list, list]:
        """The same by decoding the whole video."""
        container, stream = self._open()
        stream.thread_type, stream.codec_context.thread_count = "AUTO", 0
        found = [(frame.pts, frame.key_frame) for frame in self._decode(container, stream)]
        return [time for time, _ in found], [i for i, (_, key) in enumerate(found) if key]

    def _open(self) -> tuple[Any, Any]:
        import av  # only video files need it

        file = open_regular(self.path, "a video")
        check_whole(file)
        container = av.open(file, options={"format_whitelist": FORMATS}, metadata_errors="ignore")
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise ValueError("it has no pictures of a kind that is known")
        self.fps = float(stream.average_rate or 0) or None
        width, height, limit = stream.codec_context.width, stream.codec_context.height, pixel_limit()
        if width * height > limit:
            raise ValueError(f"found frames of {width} x {height} pixels, wanted at most {limit}")
        stream.codec_context.options = {"max_pixels": str(limit)}
        stream.codec_context.thread_count = 1  # others would not outlive a fork
        return container, stream

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        import av

        begun = False
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if begun:
                    raise
                continue  # a recording may begin within a group of pictures
            for frame in frames:
                if frame.is_corrupt:
                    raise ValueError("its data are not whole")
                begun = True
                yield frame

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the libraries below name the file and, once its length is known, the frame."""
        try:
            yield
        except UsageError:
            raise
        except Exception as error:  # of many types where a file is damaged
            said = getattr(error, "strerror", None) or error
            if self.length:
                raise OSError(self._lost(said)) from error
            raise OSError(f"{self.path}: not a video that can be read ({said})") from error

    def _lost(self, why: object) -> str:
        frame = f"frame {self._position} of {self.length}"
        return f"{self.path}: {frame} cannot be read: the file is damaged ({why})"


def _turn(image: np.ndarray, rotation: int) -> np.ndarray:
    """An image turned against the clock by so many degrees, to the nearest quarter."""
    return np.ascontiguousarray(np.rot90(image, round(rotation / 90)))


class FrameCache:
    """Arrays by key, up to ``limit`` bytes of them; those not used for longest go first."""

    def __init__(self, limit: int):
        self.limit, self.size = limit, 0
        self._arrays: OrderedDict[tuple, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._arrays)

    def __getstate__(self) -> dict:
        return {"limit": self.limit, "size": 0, "_arrays": OrderedDict()}  # a process begins with its own

    def get(self, key: tuple) -> np.ndarray | None:
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def put(self, key: tuple, array: np.ndarray) -> None:
        if (old := self._arrays.pop(key, None)) is not None:
            self.size -= old.nbytes
        self._arrays[key] = array
        self.size += array.nbytes
        while self.size > self.limit and len(self._arrays) > 1:
            self.size -= self._arrays.popitem(last=False)[1].nbytes


class Video:
    """A video of frames of one size: ``video[i]`` is uint8 (C, height, width), resized by OpenCV, bilinear.

    Args:
        path: a folder of images, or a file.
        size: (height, width) of what is returned, or one number for both.
        color: "grey", "rgb" or "bgr".
        cache: where frames are kept, shared with other videos; by default 64 MB of one's own.

    Raises:
        OSError: nothing to read, or (from the index) a frame that cannot be read or is of another size than
            the ones read before.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        size: int | Sequence[int] = 256,
        color: str = "grey",
        cache: FrameCache | None = None,
    ):
        if color not in COLORS:
            raise ValueError(f"color must be one of {', '.join(COLORS)}, found {color!r}")
        self.path = Path(path)
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.color = color
        self.cache = FrameCache(64 << 20) if cache is None else cache
        self.read_size: tuple[int, int] | None = None  # (height, width) as stored
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such video, wanted a folder of images or a file")
        self._reader = (ImageFolderReader if self.path.is_dir() else VideoFileReader)(self.path)
        if self._reader.length == 0:
            raise OSError(f"{self.path}: holds no frame")

    @property
    def name(self) -> str:
        return self.path.name if self.path.is_dir() else self.path.stem

    @property
    def fps(self) -> float | None:
        """Frames a second, in the mean, as a file says; None of a folder of images."""
        return self._reader.fps

    def __len__(self) -> int:
        return self._reader.length

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: has no frame {index}, wanted 0 to {len(self) - 1}")
        found = self.cache.get((self.path, index))
        if found is None:
            for i, image in self._reader.decode(index):
                found = self._convert(i, image)
                self.cache.put((self.path, i), found)
        return found

    def clip(self, indices: Sequence[int]) -> np.ndarray:
        """Frames (T, C, height, width), uint8."""
        return np.stack([self[index] for index in indices])

    def _convert(self, index: int, image: np.ndarray) -> np.ndarray:
        size = image.shape[:2]
        if self.read_size is None:
            self.read_size = size
        if size != self.read_size:
            raise OSError(
                f"{self.path}: frame {index} is of {size[1]} x {size[0]} pixels, wanted those of the others, "
                f"{self.read_size[1]} x {self.read_size[0]}"
            )
        image = cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_LINEAR)
        if self.color == "grey":
            return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[None]
        order = slice(None) if self.color == "bgr" else slice(None, None, -1)
        return np.ascontiguousarray(image[..., order].transpose(2, 0, 1))


def find_videos(folder: Path) -> list[Path]:
    """Videos at a path, by name: itself (a file, or images right in it), or the folders and files in it.

    Hidden files and folders ``*_gt``, which hold masks, are none; nor is a folder without images.

    Raises:
        FileNotFoundError: there are none.
    """
    if folder.is_file() or _has_images(folder):
        return [folder]
    entries = sorted(folder.iterdir(), key=lambda p: natural(p.name)) if folder.is_dir() else []
    videos = [
        entry
        for entry in entries
        if entry.name[0] != "."
        and (
            (entry.is_dir() and not entry.name.endswith("_gt") and _has_images(entry))
            or entry.suffix.lower() in VIDEO_SUFFIXES
        )
    ]
    if not videos:
        raise FileNotFoundError(
            f"{folder}: found no video, wanted folders of images, or files {' '.join(VIDEO_SUFFIXES)}"
        )
    return videos


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(
        entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.name[0] != "." for entry in os.scandir(folder)
    )


def _drop_alpha(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., :1] if pixels.shape[2] == 2 else pixels


def list_frames(folder: Path) -> list[Path]:
    """Images right in a folder, in the order of their numbers; hidden files are none.

    Raises:
        OSError: two files are of one frame, or the frames are numbered, but not one by one: which are missing
            cannot be guessed.
    """
    names = (n for n in os.listdir(folder) if n.lower().endswith(IMAGE_SUFFIXES) and n[0] != ".")
    paths = [folder / name for name in sorted(names, key=natural)]
    words = [re.split(r"(\d+)", path.stem) for path in paths]
    if len({(len(parts), *parts[::2]) for parts in words}) == 1:  # alike but for their numbers
        numbers = np.array([[int(part) for part in parts[1::2]] for parts in words], object)
        counts = [column for column in numbers.T if len(set(column)) > 1] or [*numbers.T][-1:]
    else:
        counts = []
    frames = counts[0] if len(counts) == 1 else [path.stem for path in paths]
    first: dict[object, Path] = {}
    for frame, path in zip(frames, paths, strict=True):
        if first.setdefault(frame, path) is not path:
            raise OSError(f"{first[frame]} and {path} are both frame {frame}, wanted one")
    steps = np.diff(frames) if len(counts) == 1 else []
    if len(set(steps)) > 1:  # one in five kept is no gap
        place = int(np.flatnonzero(steps != np.array(max(steps, key=list(steps).count)))[0])
        raise OSError(
            f"{folder}: found {paths[place + 1].name} after {paths[place].name}, wanted frames without a gap "
            "in their numbers"
        )
    return paths


def natural(name: str) -> tuple[list, str]:
    """Sort key: the numbers in a name count as numbers, so that 2 comes before 10."""
    return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)], name
