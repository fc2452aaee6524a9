"""Labelled point clouds from one file of the layout in :mod:`pointsuite.datasets.layout`."""

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from mmengine.dataset import BaseDataset

from pointsuite.engine.randomness import draw_key
from pointsuite.registry import DATASETS, TRANSFORMS

from .layout import IGNORED, UNLABELLED, Clouds, DatasetError, decode_normals, decode_points, read_clouds


@DATASETS.register_module()
class PointCloudDataset(BaseDataset):
    """One split of a file, held in memory as the stored integers and checked whole when constructed.

    MMEngine's wrappers (``RepeatDataset``, ``ConcatDataset``, ``ClassBalancedDataset``) take it.

    A sample is a dict: ``points`` float32 (N, 3), ``normals`` float32 (N, 3) of unit length, ``label`` int,
    ``part`` int64 (N,), -100 where unlabelled, and ``name`` str where the file has them, ``index`` int,
    ``up`` "x", "y" or "z", and ``rng``, the only source of randomness of the transforms. ``rng`` follows
    from ``seed`` and the draw alone (see :func:`~pointsuite.engine.randomness.draw_key`), so a run that was
    resumed sees what an unbroken one sees, with any number of workers. ``dataset[index]`` by itself is of
    pass 0.

    Args:
        data_file: HDF5 file.
        split: its group, e.g. "train" or "test".
        pipeline: transforms (configs or callables), applied in order.
        classes: classes to keep, which get the labels 0, 1, ... in this order; all by default.
        seed: of ``rng``.
        test_mode: every pass is as the first.
        indices: of the clouds to keep, or how many: the first, or the last if it is negative.

    Raises:
        FileNotFoundError: no ``data_file``.
        DatasetError: the file cannot be used (the message names split, key and row), ``classes`` has a name
            that the file has not, or no cloud is left.
    """

    def __init__(
        self,
        data_file: str | os.PathLike,
        split: str,
        pipeline: Sequence[dict | Callable] = (),
        *,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        test_mode: bool = False,
        indices: int | Sequence[int] | None = None,
    ):
        clouds, info = read_clouds(data_file, split)
        if classes is not None:
            clouds = self._keep(clouds, info.classes, tuple(classes), f"{data_file}: split '{split}'")
        self.data_file, self.split = str(data_file), split
        metainfo = {
            "classes": tuple(classes or info.classes),
            "part_classes": info.part_classes,
            "up": info.up,
            "num_points": clouds.points.shape[1],
        }
        self._hold(clouds, metainfo, pipeline, seed, test_mode, indices)

    def _hold(self, clouds, metainfo, pipeline, seed, test_mode, indices=None):
        self.clouds, self.seed = clouds, seed
        built = [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in pipeline]
        super().__init__(pipeline=built, test_mode=test_mode, indices=indices, lazy_init=True)
        self._metainfo = metainfo
        self.full_init()

    @property
    def metainfo(self) -> dict:
        """``classes``, ``part_classes``, ``up``, ``num_points``."""
        return self._metainfo

    def full_init(self) -> None:
        """See MMEngine; the clouds are read when the data set is constructed."""
        if not self._fully_initialized:
            self._fully_initialized = True
            if self._indices is not None:
                self.get_subset_(self._indices)

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keep the clouds of these indices only, or the first of this number (the last, if negative)."""
        rows = np.arange(len(self))
        if isinstance(indices, int):
            rows = rows[:indices] if indices >= 0 else rows[indices:]
        else:
            rows = rows[np.asarray(indices, np.int64)]
        if not len(rows):
            raise DatasetError(f"indices {indices}: no cloud is left of {len(self)}")
        self.clouds = self._select(rows)

    def _select(self, rows: np.ndarray) -> Clouds:
        return self.clouds.select(rows)

    def get_subset(self, indices: int | Sequence[int]) -> "PointCloudDataset":
        """A copy with the clouds of :meth:`get_subset_`."""
        subset = copy.copy(self)
        subset.get_subset_(indices)
        return subset

    @staticmethod
    def _keep(clouds, known, wanted, where):
        unknown = [name for name in wanted if name not in known]
        if unknown or len(set(wanted)) < len(wanted) or not wanted:
            raise DatasetError(f"{where}: classes {list(wanted)}, wanted different ones of {list(known)}")
        new_label = np.full(len(known), -1)
        new_label[[known.index(name) for name in wanted]] = np.arange(len(wanted))
        label = new_label[clouds.label]
        if not (label >= 0).any():
            raise DatasetError(f"{where}: no cloud has one of the classes {list(wanted)}")
        return replace(clouds, label=label).select(label >= 0)

    def identity(self) -> dict:
        """What tells these data from others, however they are stored: a run must go on with the same."""
        return {**self._metainfo, **vars(self.clouds)}

    def rng(self, index: int) -> np.random.Generator:
        """The generator of sample ``index`` in the current draw."""
        return np.random.default_rng([self.seed, *draw_key(index, self.test_mode)])

    def __len__(self) -> int:
        return len(self.clouds)

    def get_data_info(self, index: int) -> dict:
        """Sample ``index`` before the pipeline."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range, the dataset has {len(self)} clouds")
        index %= len(self)
        clouds = self.clouds
        sample = {
            "points": decode_points(clouds.points[index]),
            "normals": decode_normals(clouds.normals[index]),
            "label": int(clouds.label[index]),
            "index": index,
            "up": self._metainfo["up"],
            "rng": self.rng(index),
        }
        if clouds.part is not None:
            part = clouds.part[index].astype(np.int64)
            sample["part"] = np.where(part == UNLABELLED, IGNORED, part)
        if clouds.name is not None:
            sample["name"] = str(clouds.name[index])
        return sample

    def get_cat_ids(self, index: int) -> list[int]:
        """The label of a sample, for MMEngine's ``ClassBalancedDataset``."""
        return [int(self.clouds.label[index])]
