"""Labelled point clouds from one file of the layout in :mod:`pointsuite.datasets.layout`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from mmengine.dataset import Compose
from torch.utils.data import Dataset

from pointsuite.registry import DATASETS, TRANSFORMS

from .layout import IGNORED, UNLABELLED, DatasetError, decode_normals, decode_points, read_clouds


@DATASETS.register_module()
class PointCloudDataset(Dataset):
    """One split of a file, held in memory as the stored integers and checked whole when constructed.

    A sample is a dict: ``points`` float32 (N, 3), ``normals`` float32 (N, 3) of unit length, ``label`` int,
    ``part`` int64 (N,), -100 where unlabelled, and ``name`` str where the file has them, ``index`` int,
    ``up`` "x", "y" or "z", and ``rng``, the only source of randomness of the transforms. ``rng`` depends on
    (seed, epoch, index) alone, so a run that was resumed sees what an unbroken one sees, with any number of
    workers.

    Args:
        data_file: HDF5 file.
        split: its group, e.g. "train" or "test".
        pipeline: transforms (configs or callables), applied in order.
        classes: classes to keep, which get the labels 0, 1, ... in this order; all by default.
        seed: of ``rng``.
        test_mode: the epoch stays 0, whatever :meth:`set_epoch` is told.

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
    ):
        clouds, info = read_clouds(data_file, split)
        if classes is not None:
            clouds = self._keep(clouds, info.classes, tuple(classes), f"{data_file}: split '{split}'")
        self.clouds = clouds
        self.metainfo = {
            "classes": tuple(classes or info.classes),
            "part_classes": info.part_classes,
            "up": info.up,
            "num_points": clouds.points.shape[1],
            "data_file": str(data_file),
            "split": split,
        }
        self.pipeline = Compose([TRANSFORMS.build(t) if isinstance(t, dict) else t for t in pipeline])
        self.seed = seed
        self.test_mode = test_mode
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # worker processes see it change

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

    def set_epoch(self, epoch: int) -> None:
        """Choose the random numbers of the samples from now on, in worker processes too."""
        self._epoch.fill_(epoch)

    def rng(self, index: int) -> np.random.Generator:
        """The generator of sample ``index`` in the current epoch."""
        return np.random.default_rng([self.seed, 0 if self.test_mode else int(self._epoch), index])

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
            "up": self.metainfo["up"],
            "rng": self.rng(index),
        }
        if clouds.part is not None:
            part = clouds.part[index].astype(np.int64)
            sample["part"] = np.where(part == UNLABELLED, IGNORED, part)
        if clouds.name is not None:
            sample["name"] = str(clouds.name[index])
        return sample

    def __getitem__(self, index: int) -> dict:
        return self.pipeline(self.get_data_info(index))
