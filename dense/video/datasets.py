"""Clips that slide over videos, with labels of abnormal frames: UCSD Ped, Avenue, ShanghaiTech, your own."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pointsuite.engine.files import read_json, read_text
from pointsuite.engine.images import read_array

from ..base.arrays import read_mat, read_npy
from ..base.datasets import SeededDataset
from ..registry import DATASETS
from .frames import FrameCache, Video, find_videos, list_frames

OFFSETS = tuple(range(0, 25, 3))  # of the published clips: every third of 25 frames


@DATASETS.register_module()
class VideoClips(SeededDataset):
    """Clips of frames at fixed offsets from a start that slides over each video.

    A sample before the pipeline: ``clip`` uint8 (T, C, H, W), and what
    :class:`~dense.video.sample.ClipDataSample` names as metainfo. ``metainfo["videos"]`` has, for each video,
    ``num_frames`` and ``label``, one 0 or 1 a frame, or None where nothing is known.

    Args:
        data_root: folder of the data set.
        videos: where the videos are below ``data_root``: folders of images and video files lie in it, or it
            is one of them. Of several places, the first that exists counts.
        labels: where the labels are below ``data_root`` (see :func:`read_labels`); of several, the first that
            exists. None: there are none.
        size: (height, width) of the frames, or one number for both.
        color: "grey", "rgb", or "bgr" as the published code has it.
        offsets: places of a clip's frames from its start, ascending from 0.
        stride: frames from one start to the next; the last possible start is always among them.
        hold_out: share of the videos that ``part="held_out"`` has and ``part="train"`` lacks: whole videos,
            evenly spread over their names, so that no frame is on both sides. 0 takes all videos.
        part: "train" or "held_out", where ``hold_out`` is not 0.
        cache_mb: memory for decoded frames, of each data worker.
        **kwargs: of :class:`SeededDataset`; the pipeline is
            :class:`~dense.video.transforms.PackClip` by default.

    Raises:
        OSError: a file or folder is missing or damaged, a video is too short, labels do not fit.
        ValueError: arguments that do not fit.
    """

    def __init__(
        self,
        data_root: str | os.PathLike,
        videos: str | Sequence[str] = "",
        labels: str | Sequence[str] | None = None,
        *,
        size: int | Sequence[int] = 256,
        color: str = "grey",
        offsets: Sequence[int] = OFFSETS,
        stride: int = 1,
        hold_out: float = 0.0,
        part: str = "train",
        cache_mb: int = 1024,
        pipeline: Sequence[dict | Callable] = ({"type": "dense.PackClip"},),
        **kwargs,
    ):
        offsets = tuple(offsets)
        if len(offsets) < 1 or offsets[0] != 0 or list(offsets) != sorted(set(offsets)):
            raise ValueError(f"offsets must ascend from 0, found {offsets}")
        if stride < 1:
            raise ValueError(f"stride must be at least 1, found {stride}")
        if not 0 <= hold_out < 1:
            raise ValueError(f"hold_out must be at least 0 and below 1, found {hold_out}")
        if part not in ("train", "held_out"):
            raise ValueError(f"part must be 'train' or 'held_out', found {part!r}")
        self.folder = Path(data_root).expanduser()
        self.places, self.label_places = _as_tuple(videos), _as_tuple(labels)
        self.size, self.color, self.offsets, self.stride = size, color, offsets, stride
        self.hold_out, self.part = hold_out, part
        self._cache = FrameCache(cache_mb << 20)
        super().__init__(data_root=str(data_root), pipeline=pipeline, **kwargs)

    def load_data_list(self) -> list[dict]:
        paths = self._choose(find_videos(self._find(self.places, "videos")))
        self.videos = [Video(path, self.size, self.color, self._cache) for path in paths]
        labels = {}
        if self.label_places:
            place = self._find(self.label_places, "labels of the frames")
            labels = read_labels(place, {video.name: len(video) for video in self.videos})
        self._metainfo["videos"] = {
            video.name: {"num_frames": len(video), "label": labels.get(video.name)} for video in self.videos
        }
        if len(self._metainfo["videos"]) < len(paths):
            raise OSError(f"{self.folder}: found two videos of one name, wanted names that differ")
        return [
            {"place": place, "start": start, "num_windows": len(starts)}
            for place, video in enumerate(self.videos)
            for starts in [self._find_starts(video)]
            for start in starts
        ]

    def _find(self, places: Sequence[str], what: str) -> Path:
        tried = [self.folder / place for place in places]
        found = next((path for path in tried if path.exists()), None)
        if found is None:
            raise FileNotFoundError(f"found no {what}, wanted {' or '.join(map(str, tried))}")
        return found

    def _choose(self, paths: list[Path]) -> list[Path]:
        if not self.hold_out:
            return paths
        count = max(1, round(self.hold_out * len(paths)))
        if count >= len(paths):
            raise OSError(f"{self.folder}: found {len(paths)} videos, too few to hold out {count} of them")
        held_out = {int((i + 0.5) * len(paths) / count) for i in range(count)}
        return [path for i, path in enumerate(paths) if (i in held_out) == (self.part == "held_out")]

    def _find_starts(self, video: Video) -> list[int]:
        last = len(video) - 1 - self.offsets[-1]
        if last < 0:
            raise OSError(
                f"{video.path}: has {len(video)} frames, wanted at least {self.offsets[-1] + 1} for one clip"
            )
        return sorted({*range(0, last + 1, self.stride), last})

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        video = self.videos[info["place"]]
        frames = tuple(info["start"] + offset for offset in self.offsets)
        return {
            "clip": video.clip(frames),
            "video": video.name,
            "video_path": str(video.path),
            "num_frames": len(video),
            "num_windows": info["num_windows"],
            "frames": frames,
            "sample_idx": info["sample_idx"],
        }


class _Benchmark(VideoClips):
    """A published data set, where its archive or one of its common copies has the parts."""

    splits: Mapping[str, Sequence[str]]
    labels: Sequence[str]

    def __init__(self, data_root: str | os.PathLike, split: str = "train", **kwargs):
        if split not in self.splits:
            raise ValueError(f"split must be one of {', '.join(self.splits)}, found {split!r}")
        labels = self.labels if split == "test" else None
        super().__init__(data_root, self.splits[split], labels, **kwargs)


COPIES = ("testing/frame_labels.json", "testing/test_frame_mask", "test_frame_mask")


@DATASETS.register_module()
class UCSDPed(_Benchmark):
    """UCSD Ped1 or Ped2: pedestrians, grey; bicycles, skaters and carts are anomalies.

    ``data_root`` is the archive's folder ``UCSDped1`` or ``UCSDped2``, or a copy with ``training/frames``,
    ``testing/frames`` and ``testing/frame_labels.json``. Labels are the ranges in the archive's ``.m`` file;
    without it, a frame is abnormal if its mask in ``Test/*_gt`` has a pixel (Ped1 has ten of these only).

    Source: Mahadevan et al., "Anomaly Detection in Crowded Scenes", CVPR 2010.
    """

    splits = {"train": ("Train", "training/frames"), "test": ("Test", "testing/frames")}
    labels = ("Test/UCSDped1.m", "Test/UCSDped2.m", *COPIES, "Test")


@DATASETS.register_module()
class Avenue(_Benchmark):
    """CUHK Avenue: 16 and 21 videos of a walkway.

    ``data_root`` is the archive's folder with ``training_videos``, ``testing_videos`` and the masks
    ``N_label.mat`` of its ground truth, or a copy with ``training/frames`` and ``testing/frames``.

    Source: Lu et al., "Abnormal Event Detection at 150 FPS in MATLAB", ICCV 2013.
    """

    splits = {
        "train": ("training_videos", "training/frames", "training/videos"),
        "test": ("testing_videos", "testing/frames", "testing/videos"),
    }
    labels = (
        "ground_truth_demo/testing_label_mask",
        "testing_label_mask",
        "testing/testing_label_mask",
        *COPIES,
    )


@DATASETS.register_module()
class ShanghaiTech(_Benchmark):
    """ShanghaiTech Campus: 330 and 107 videos of 13 scenes.

    ``data_root`` is the archive's folder with ``training/videos`` (or frames of them in ``training/frames``),
    ``testing/frames`` and ``testing/test_frame_mask``.

    Source: Luo et al., "A Revisit of Sparse Coding Based Anomaly Detection in Stacked RNN Framework", ICCV
    2017.
    """

    splits = {"train": ("training/frames", "training/videos"), "test": ("testing/frames", "testing/videos")}
    labels = COPIES


# ----------------------------------------------------------------------------------------------- labels


def read_labels(place: Path, lengths: Mapping[str, int]) -> dict[str, list[int]]:
    """Labels of the frames of videos, 1 where a frame is abnormal.

    Args:
        place: a file ``.json``, {name: [0, 1, ...]}; a file ``.m`` of UCSD, whose ranges ``gt_frame`` count
            from 1 and go by the order of the videos; or a folder with, for each video, ``NAME.npy`` of
            numbers, ``N_label.mat`` of Avenue's masks, or a folder ``NAME_gt`` of a mask image a frame.
        lengths: frames by the videos' names, in their order.

    Raises:
        OSError: a file is missing or damaged, or its labels are not 0 and 1, one for each frame.
    """
    kind = place.suffix
    if kind == ".m":
        return _read_ranges(place, lengths)
    if kind == ".json":
        known = read_json(place)
        if not isinstance(known, dict):
            raise OSError(f"{place}: found a {type(known).__name__}, wanted {{name: [0, 1, ...]}}")
        found = {name: (place, known.get(name)) for name in lengths}
    else:
        found = {name: _read_video(place, name) for name in lengths}
    labels = {}
    for name, (path, values) in found.items():
        if values is None:
            raise OSError(f"{path}: has no labels of the video {name!r}")
        try:
            values = np.asarray(values).reshape(-1)
            binary = values.dtype.kind in "biuf" and np.isin(values, (0, 1)).all()
        except ValueError:  # of lists of unequal lengths
            values, binary = [], False
        if binary and len(values) != lengths[name]:
            raise OSError(
                f"{path}: has {len(values)} labels of the video {name!r}, wanted one for each of its "
                f"{lengths[name]} frames"
            )
        if not binary:
            raise OSError(f"{path}: the labels of the video {name!r} are not all 0 or 1")
        labels[name] = values.astype(int).tolist()
    return labels


def _read_ranges(file: Path, lengths: Mapping[str, int]) -> dict[str, list[int]]:
    """Frames that MATLAB's ``gt_frame = [...]`` lists: numbers and ranges, in rows or columns."""
    text = re.sub(r"(%|\.\.\.)[^\n]*", "", read_text(file))
    entries = re.findall(r"\bgt_frame\s*=\s*(?:\[([^\]]*)\]|([^;\n]*))", text)
    if len(entries) != len(lengths):
        raise OSError(f"{file}: has ranges of {len(entries)} videos, wanted {len(lengths)}")
    labels = {}
    for (name, length), entry in zip(lengths.items(), entries, strict=True):
        label = np.zeros(length, int)
        for term in re.sub(r"\s*:\s*", ":", re.sub(r"[,;()]", " ", "".join(entry))).split():
            if re.fullmatch(r"\d{1,9}(:-?\d{1,9})?(:\d{1,9})?", term) is None:
                raise OSError(f"{file}: has {term[:40]!r} for the video {name!r}, wanted 7, 9:10 or 2:2:8")
            first, *step, last = map(int, term.split(":") if ":" in term else (term, term))
            step = step[0] if step else 1
            frames = range(first, last + (1 if step > 0 else -1), step) if step else range(0)
            if not frames or not all(1 <= frame <= length for frame in (frames[0], frames[-1])):
                raise OSError(f"{file}: has {term} for the video {name!r} of {length} frames")
            label[np.array(frames) - 1] = 1
        labels[name] = label.tolist()
    return labels


def _read_video(folder: Path, name: str) -> tuple[Path, np.ndarray | None]:
    """The file or folder that has the labels of a video, and these."""
    if (file := folder / f"{name}.npy").is_file():
        return file, read_npy(file)
    number = name.lstrip("0") or name
    if (file := folder / f"{number}_label.mat").is_file():
        masks = read_mat(file).get("volLabel")
        if masks is None or masks.dtype != object:
            raise OSError(f"{file}: found no cells 'volLabel', wanted a mask of each frame there")
        return file, np.array([np.any(mask) for mask in masks.reshape(-1)])
    if (masks := folder / f"{name}_gt").is_dir():
        return masks, np.array([_has_mark(path) for path in list_frames(masks)])
    wanted = f"{name}.npy, {number}_label.mat or {name}_gt"
    raise FileNotFoundError(f"{folder}: has no labels of the video {name!r}, wanted {wanted}")


def _has_mark(path: Path) -> bool:
    pixels, _ = read_array(path)
    return bool((pixels[..., :-1] if pixels.shape[2] in (2, 4) else pixels).any())


def _as_tuple(places: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if places is None else (places,) if isinstance(places, str) else tuple(places)
