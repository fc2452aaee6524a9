"""Pairs of images with keypoints, as their authors packed them, and images without labels.

A sample of a pair before the pipeline: ``source_path``, ``target_path`` str; ``source_points``,
``target_points`` float32 (n, 2), the keypoints that both images have, x and y in pixels; ``source_box``,
``target_box`` (left, top, right, bottom) of the object; ``flip`` bool, both images and all that is in them
are to be mirrored; ``threshold``, see :class:`PairDataset`; ``category`` str; ``sample_idx`` int.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pointsuite.engine.files import list_files, read_json, read_text
from pointsuite.engine.images import find_images, stored_orientation

from ..base.arrays import read_mat
from ..base.datasets import SeededDataset
from ..registry import DATASETS

THRESHOLDS = ("image", "box", "keypoints")
PASCAL_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


class PairDataset(SeededDataset):
    """Pairs of images that show objects of one class.

    Args:
        data_root: where the data set's folder is.
        split: "trn", "val" or "test".
        folder: of the data set, below ``data_root``; by default that itself.
        threshold: what PCK's thresholds are shares of, by default what the benchmark says: "image", the side
            of the resized image; "box", the longer side of the source's object box, or "keypoints", the
            larger extent of the source's keypoints, in the resized image.
        **kwargs: of :class:`~dense.base.datasets.SeededDataset`.

    Raises:
        OSError: a file is missing, damaged or not what it should be; the message names it.
        ValueError: no such threshold or split.
    """

    threshold: str
    splits: tuple[str, ...] = ("trn", "val", "test")

    def __init__(
        self,
        data_root: str | os.PathLike,
        split: str = "test",
        threshold: str | None = None,
        folder: str = "",
        **kwargs,
    ):
        if split not in self.splits:
            raise ValueError(f"{type(self).__name__} has the splits {self.splits}, found {split!r}")
        self.threshold = self.threshold if threshold is None else threshold
        if self.threshold not in THRESHOLDS:
            raise ValueError(f"threshold must be one of {THRESHOLDS}, found {threshold!r}")
        self.folder, self.split = Path(data_root).expanduser() / folder, split
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder}: no such folder, wanted that of {type(self).__name__}")
        super().__init__(data_root=str(data_root), **kwargs)

    def get_data_info(self, idx: int) -> dict:
        info = self.read_pair({"flip": False, "threshold": self.threshold, **super().get_data_info(idx)})
        where = f"{info['source_path']} and {info['target_path']}"
        for key in ("source_points", "target_points"):
            try:
                points = info[key] = np.asarray(info[key], np.float32)
            except (TypeError, ValueError) as error:  # rows of unequal length, or no numbers
                raise OSError(f"{where}: {key} cannot be read as (n, 2) numbers ({error})") from error
            if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
                raise OSError(f"{where}: {key} are {points.shape}, wanted finite (n, 2)")
        counts = len(info["source_points"]), len(info["target_points"])
        if counts[0] != counts[1] or 0 in counts:
            raise OSError(f"{where}: found {counts[0]} and {counts[1]} keypoints, wanted as many, at least 1")
        for side in ("source", "target"):
            path = info[f"{side}_path"]
            if os.path.isfile(path) and (orientation := stored_orientation(path)) != 1:
                raise OSError(
                    f"{path}: its EXIF wants it turned (orientation {orientation}), and nothing says whether "
                    "its keypoints are: wanted an upright image"
                )
            info.setdefault(f"{side}_box", points_box(info[f"{side}_points"]))
        return info

    def get_cat_ids(self, idx: int) -> list[str]:
        return [self.get_data_info(idx)["category"]]

    def read_pair(self, info: dict) -> dict:
        """Add to an item of the list what is read when it is asked for."""
        return info

    def read_table(self, path: Path) -> Iterator[list[str]]:
        """Rows of a table with commas but its head; OSError if it has none or one is too short."""
        try:
            rows = [row for row in csv.reader(read_text(path).splitlines()) if row]
        except csv.Error as error:
            raise OSError(f"{path}: found {error}, wanted a table with commas") from error
        if len(rows) < 2:
            raise OSError(f"{path}: found {len(rows)} lines, wanted a head and pairs")
        for number, row in enumerate(rows[1:], 2):
            if len(row) < len(rows[0]) or len(row) < 3:
                raise OSError(f"{path}, line {number}: found {len(row)} columns, wanted {len(rows[0])}")
            yield row


def points_box(points: np.ndarray) -> tuple[float, ...]:
    """The box around points (n, 2)."""
    return tuple(map(float, (*points.min(0), *points.max(0))))


@DATASETS.register_module()
class PFPascal(PairDataset):
    """PF-PASCAL: photographs of 20 classes; 2940 pairs to train on (with flips), 308 and 299 to test.

    Layout: ``trn_pairs.csv``, ``val_pairs.csv``, ``test_pairs.csv``, with the columns of source, target,
    number of the class (from 1) and, for training, 1 where the pair is mirrored; ``JPEGImages/NAME.jpg``;
    ``Annotations/CLASS/NAME.mat``, with ``kps`` (n, 2), NaN where a keypoint is hidden, and ``bbox``.

    Source: Ham et al., "Proposal Flow: Semantic Correspondences from Object Proposals", PAMI 2018.
    """

    threshold = "image"

    def load_data_list(self) -> list[dict]:
        table = self.folder / f"{self.split}_pairs.csv"
        pairs = []
        for number, (source, target, label, *rest) in enumerate(self.read_table(table), 2):
            if label not in map(str, range(1, len(PASCAL_CLASSES) + 1)):
                raise OSError(f"{table}, line {number}: found the class {label[:40]!r}, wanted 1 to 20")
            if rest and rest[0] not in ("0", "1", "0.0", "1.0"):
                raise OSError(f"{table}, line {number}: found {rest[0][:40]!r}, wanted 0, or 1 for mirrored")
            pairs.append(
                {
                    "source_path": str(self.folder / "JPEGImages" / Path(source).name),
                    "target_path": str(self.folder / "JPEGImages" / Path(target).name),
                    "category": PASCAL_CLASSES[int(label) - 1],
                    "flip": self.split == "trn" and bool(rest) and float(rest[0]) == 1,
                }
            )
        return pairs

    def read_pair(self, info: dict) -> dict:
        found = {}
        for side in ("source", "target"):
            folder = self.folder / "Annotations" / info["category"]
            file = folder / f"{Path(info[f'{side}_path']).stem}.mat"
            found[f"{side}_points"], found[f"{side}_box"] = read_annotation(file)
        source, target = found["source_points"], found["target_points"]
        if len(source) != len(target):
            raise OSError(
                f"{info['source_path']} and {info['target_path']}: {len(source)} and {len(target)} keypoints"
            )
        seen = ~np.isnan(source + target).any(1)  # in both
        return {**info, **found, "source_points": source[seen], "target_points": target[seen]}


def read_annotation(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Keypoints (n, 2), NaN where hidden, and box of a .mat file; OSError where it has no such."""
    content = read_mat(path)
    try:
        points, box = content["kps"].astype(np.float64), content["bbox"].astype(np.float64).reshape(-1)
    except (KeyError, TypeError, ValueError) as error:
        raise OSError(f"{path}: not a file with 'kps' and 'bbox' that can be read ({error})") from error
    if points.ndim != 2 or points.shape[1] != 2 or len(box) != 4 or not np.isfinite(box).all():
        raise OSError(f"{path}: kps are {points.shape} and bbox {box.shape}, wanted (n, 2) and (4,)")
    return points.astype(np.float32), tuple(map(float, box))


@DATASETS.register_module()
class PFWillow(PairDataset):
    """PF-WILLOW: 100 photographs of 10 sub-classes with 10 keypoints each; all 900 ordered pairs of a class.

    Layout: images in a folder for each sub-class, and either ``test_pairs.csv`` (two images, then x of the
    source's ten keypoints, y of them, x and y of the target's) or ``keypoints.json``
    (``{"images": {"CLASS/NAME.png": {"kps": [[x, y], ...]}}}``), of which all pairs of a class are made. The
    first is taken where both are.

    Source: Ham et al., "Proposal Flow", CVPR 2016.
    """

    threshold = "keypoints"
    splits = ("test",)

    def load_data_list(self) -> list[dict]:
        table, listing = self.folder / "test_pairs.csv", self.folder / "keypoints.json"
        if table.is_file():
            return self._read_pairs(table)
        if listing.is_file():
            return self._make_pairs(listing)
        raise FileNotFoundError(f"{self.folder}: found neither {table.name} nor {listing.name}")

    def _read_pairs(self, table: Path) -> list[dict]:
        pairs = []
        for number, (source, target, *numbers) in enumerate(self.read_table(table), 2):
            try:
                points = np.array(numbers, np.float32).reshape(2, 2, 10).swapaxes(1, 2)
            except ValueError as error:
                raise OSError(
                    f"{table}, line {number}: found {len(numbers)} columns of keypoints, wanted 40 numbers"
                ) from error
            pairs.append(self._pair(source, target, *points))
        return pairs

    def _make_pairs(self, listing: Path) -> list[dict]:
        content = read_json(listing)
        try:
            images = content["images"]
            points = {name: images[name]["kps"] for name in sorted(images)}
        except (KeyError, TypeError, ValueError) as error:
            raise OSError(
                f"{listing}: not a list of images with 'kps' that can be read ({error!r})"
            ) from error
        pairs = [
            self._pair(source, target, points[source], points[target])
            for source in points
            for target in points
            if source != target and Path(source).parent == Path(target).parent
        ]
        if not pairs:
            raise OSError(f"{listing}: found no two images of one class")
        return pairs

    def _pair(self, source: str, target: str, source_points: Sequence, target_points: Sequence) -> dict:
        return {
            "source_path": self._find(source),
            "target_path": self._find(target),
            "source_points": source_points,
            "target_points": target_points,
            "category": Path(source).parent.name,
        }

    def _find(self, name: str) -> str:
        # the table's names begin with a folder that not every copy has
        inner = self.folder / Path(*Path(name).parts[-2:])
        return str(inner if inner.is_file() else self.folder / name)


@DATASETS.register_module()
class SPair71k(PairDataset):
    """SPair-71k: 53,340, 5,384 and 12,234 pairs of 18 classes, seen from other sides, in part, hidden.

    Layout: ``PairAnnotation/SPLIT/*.json``, each a pair with ``src_imname``, ``trg_imname``, ``category``,
    ``src_kps``, ``trg_kps``, ``src_bndbox``, ``trg_bndbox``; ``JPEGImages/CATEGORY/NAME.jpg``. Pairs are
    taken in the order of their files' names.

    Source: Min et al., "SPair-71k: A Large-scale Benchmark for Semantic Correspondence", 2019.
    """

    threshold = "box"

    def load_data_list(self) -> list[dict]:
        folder = self.folder / "PairAnnotation" / self.split
        files = list_files(folder, "*.json")
        if not files:
            raise FileNotFoundError(f"{folder}: found no file of a pair (*.json)")
        return [{"file": str(file)} for file in files]

    def read_pair(self, info: dict) -> dict:
        file = info.pop("file")
        pair = read_json(file)
        try:
            images = self.folder / "JPEGImages" / pair["category"]
            for side, key in (("source", "src"), ("target", "trg")):
                box = tuple(map(float, pair[f"{key}_bndbox"]))
                if len(box) != 4 or not np.isfinite(box).all():
                    raise ValueError(f"a box of {len(box)} numbers: {box}")
                info |= {
                    f"{side}_path": str(images / pair[f"{key}_imname"]),
                    f"{side}_points": pair[f"{key}_kps"],
                    f"{side}_box": box,
                }
        except (KeyError, TypeError, ValueError) as error:
            raise OSError(f"{file}: not the annotation of a pair that can be read ({error!r})") from error
        return {**info, "category": pair["category"]}


@DATASETS.register_module()
class ImageFiles(SeededDataset):
    """All images in some folders, without labels, at any depth, by name.

    A sample before the pipeline: ``img_path`` str, ``sample_idx`` int.

    Args:
        folders: below ``data_root``; by default that itself.
        repeat: how often an epoch has each image; random numbers differ each time.

    Raises:
        FileNotFoundError: a folder is missing or has no image.
    """

    def __init__(
        self, data_root: str | os.PathLike, folders: Sequence[str] = ("",), repeat: int = 1, **kwargs
    ):
        if repeat < 1:
            raise ValueError(f"repeat must be at least 1, found {repeat}")
        self.folders = [Path(data_root).expanduser() / folder for folder in folders]
        self.repeat = repeat
        super().__init__(data_root=str(data_root), **kwargs)

    def load_data_list(self) -> list[dict]:
        found = []
        for folder in self.folders:
            images = find_images(folder)
            if not images:
                raise FileNotFoundError(f"{folder}: found no image")
            found += images
        return [{"img_path": path} for path in found] * self.repeat
