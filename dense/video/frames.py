"""Frames of a video by their index, from a folder of images or a video file, through a bounded cache."""

import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from ..base.images import SUFFIXES as IMAGE_SUFFIXES
from ..base.images import read_array, to_colour

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
COLORS = {"grey": 1, "rgb": 3, "bgr": 3}
SEEK = 64  # frames that are decoded on the way rather than passed over


class ImageFolderReader:
    """Images of one folder as frames, in the order of their names; hidden files are none."""

    def __init__(self, folder: Path):
        names = (n for n in os.listdir(folder) if n.lower().endswith(IMAGE_SUFFIXES) and n[0] != ".")
        self.paths = [folder / name for name in sorted(names, key=natural)]
        check_numbers(self.paths)
        self.length = len(self.paths)

    def decode(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        """Frames (index, uint8 (H, W, 3) in the order blue, green, red) up to this one, which is the last."""
        path = self.paths[index]
        pixels, _ = read_array(path)
        yield index, np.ascontiguousarray(to_colour(_drop_alpha(pixels), str(path))[..., ::-1])


class VideoFileReader:
    """Frames of a video file.

    Of a jump, OpenCV finds the frame by its time stamp. Where a file's time stamps are irregular that is
    another one than counting finds: take such a file apart into images.
    """

    def __init__(self, path: Path):
        self.path = path
        self._open()
        self.length = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if self.length <= 0:  # a stream, whose head does not tell
            self.length = 0
            while self._capture.grab():
                self.length += 1
            self._open()

    def _open(self) -> None:
        self._capture, self._process, self._position = cv2.VideoCapture(str(self.path)), os.getpid(), 0
        if not self._capture.isOpened():
            found = "not a video that can be read" if self.path.is_file() else "no such file"
            raise OSError(f"{self.path}: {found}")

    def __getstate__(self) -> dict:
        return {"path": self.path, "length": self.length, "_process": None}

    def decode(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        """As of :class:`ImageFolderReader`; also the frames on the way from where reading stood."""
        if self._process != os.getpid():  # a data worker: processes must not share a decoder
            self._open()
        if not 0 <= index - self._position <= SEEK:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            self._position = index
        while self._position <= index:
            good, image = self._capture.read()
            if not good:
                raise OSError(
                    f"{self.path}: frame {self._position} of {self.length} cannot be read: the file is "
                    "damaged, or its head is wrong"
                )
            self._position += 1
            yield self._position - 1, image


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


def check_numbers(paths: Sequence[Path]) -> None:
    """Frames that are numbered, but not one by one, are an error: which are missing cannot be guessed.

    Raises:
        OSError: a number is missing in between, or two files have the same.
    """
    matches = [re.fullmatch(r"(.*?)(\d+)", path.stem) for path in paths]
    if not all(matches) or len({match[1] for match in matches}) > 1:
        return
    numbers = [int(match[2]) for match in matches]
    steps = np.diff(numbers)
    for place in np.flatnonzero(steps == 0):
        raise OSError(f"{paths[place]} and {paths[place + 1]} are both frame {numbers[place]}, wanted one")
    if len(steps) and len(set(steps.tolist())) > 1:  # one in five kept is no gap
        place = int(np.flatnonzero(steps != np.bincount(steps).argmax())[0])
        raise OSError(
            f"{paths[place].parent}: found {paths[place + 1].name} after {paths[place].name}, wanted frames "
            "without a gap in their numbers"
        )


def natural(name: str) -> tuple[list, str]:
    """Sort key: the numbers in a name count as numbers, so that 2 comes before 10."""
    return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)], name
