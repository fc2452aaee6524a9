"""Pictures and the paths of those who looked at them: search among objects, and OSIE.

A sample before the pipeline: ``img_path``; ``target``, the number of the object that is searched for, or
None; ``paths``, a list of int64 arrays (n,) of objects, or ``fixations``, a list of float32 arrays (n, 3), x
and y in pixels and ms; ``sample_idx``.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointsuite.engine.files import FileError, read_json

from ..base.datasets import SeededDataset
from ..registry import DATASETS

SPLITS = ("train", "val", "test", "all")


class ScanpathDataset(SeededDataset):
    """Of items in a fixed order, the first 80 % to train, then 10 % to validate and 10 % to test.

    Args:
        data_root: folder of the data set.
        split: "train", "val", "test" or "all".
        ann_file: JSON file below it.
        split_seed: of the order, where the file has none.
        **kwargs: of :class:`~dense.base.datasets.SeededDataset`.

    Raises:
        OSError: a file is missing, damaged or not what it should be; the message names it.
        ValueError: no such split.
    """

    def __init__(
        self,
        data_root: str | os.PathLike,
        split: str = "train",
        ann_file: str = "scanpaths.json",
        split_seed: int = 0,
        **kwargs,
    ):
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, found {split!r}")
        self.folder, self.split, self.split_seed = Path(data_root).expanduser(), split, split_seed
        super().__init__(data_root=str(data_root), ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        path = Path(self.ann_file)
        items, order = self.read_items(path, read_json(path))
        if not items:
            raise FileError(path, "found no paths, wanted some")
        if order is None:
            order = np.random.default_rng(self.split_seed).permutation(len(items)).tolist()
        elif sorted(order) != list(range(len(items))):
            raise FileError(path, f"its order is of {len(order)} items, wanted each of {len(items)} once")
        bounds = {"train": (0, 8), "val": (8, 9), "test": (9, 10), "all": (0, 10)}[self.split]
        first, last = (round(tenth * len(items) / 10) for tenth in bounds)
        return [items[i] for i in order[first:last]]

    def read_items(self, path: Path, content: Any) -> tuple[list[dict], list[int] | None]:
        """All samples of the file, and their order where it says so."""
        raise NotImplementedError


@DATASETS.register_module()
class SearchScanpaths(ScanpathDataset):
    """Search among objects in a grid, a path a sample: shelves of wine or yogurt, book covers.

    Layout: ``scanpaths.json``, {"trials": [{"image": "images/a.jpg", "target": 5, "path": [3, 4, 5]}, ...],
    "order": [...]}. Objects are numbered row by row from 0; the order, a list of the trials' numbers, is the
    stored one of the split and may be left out. The authors name no layout of their files: this one is ours,
    of what they say of them.
    """

    def read_items(self, path: Path, content: Any) -> tuple[list[dict], list[int] | None]:
        trials = content.get("trials") if isinstance(content, dict) else None
        if not isinstance(trials, list):
            raise FileError(path, 'found no list of trials, wanted {"trials": [...]}')
        items = []
        for number, trial in enumerate(trials):
            wanted = {"image": str, "target": int, "path": list}
            for key, kind in wanted.items():
                if not isinstance(trial, dict) or not isinstance(trial.get(key), kind):
                    raise FileError(path, f"trial {number}: found no {key!r}, wanted a {kind.__name__}")
            objects = trial["path"]
            if not objects or not all(isinstance(i, int) and i >= 0 for i in (trial["target"], *objects)):
                raise FileError(path, f"trial {number}: found other numbers, wanted objects from 0")
            image = str(self.folder / trial["image"])
            items.append(
                {"img_path": image, "target": trial["target"], "paths": [np.array(objects, np.int64)]}
            )
        return items, content.get("order")


@DATASETS.register_module()
class OSIE(ScanpathDataset):
    """OSIE: 700 photographs that 15 people looked at for three seconds each, without a task.

    A sample is a photograph with the paths of all people; the split is by photographs. Layout:
    ``images/1001.jpg``, ... and ``scanpaths.json``, {"scanpaths": {"1001.jpg": [[[x, y, ms], ...], ...]}},
    in pixels of the images.

    Source: Xu, Jiang, Wang, Kankanhalli, Zhao, "Predicting human gaze beyond pixels", Journal of Vision 2014
    (NUS-VIP/predicting-human-gaze-beyond-pixels, MIT).
    """

    def read_items(self, path: Path, content: Any) -> tuple[list[dict], None]:
        known = content.get("scanpaths") if isinstance(content, dict) else None
        if not isinstance(known, dict):
            raise FileError(path, 'found no paths, wanted {"scanpaths": {"1001.jpg": [...]}}')
        return [
            {
                "img_path": str(self.folder / "images" / name),
                "target": None,
                "fixations": _read_fixations(path, name, known[name]),
            }
            for name in sorted(known)
        ], None


def _read_fixations(path: Path, name: str, people: Sequence) -> list[np.ndarray]:
    """The paths of all people who looked at all."""
    try:
        paths = [np.asarray(person, np.float32).reshape(len(person), 3) for person in people if len(person)]
    except (TypeError, ValueError):
        raise FileError(path, f"{name}: found other entries, wanted lists of [x, y, ms]") from None
    if not paths or not all(np.isfinite(each).all() and (each[:, 2] >= 0).all() for each in paths):
        raise FileError(path, f"{name}: found no path or no number, wanted finite [x, y, ms], ms from 0")
    return paths
