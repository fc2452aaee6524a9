"""Data sets whose random numbers depend on seed, epoch and index alone."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dataset import BaseDataset

from ..registry import TRANSFORMS


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Python's and NumPy's global generators, which transforms draw from, start at ``key`` within."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


class SeededDataset(BaseDataset):
    """What MMEngine's dataset is, with random numbers that depend on (seed, epoch, index) alone.

    So a run that was resumed sees what an unbroken one sees, with any number of workers.

    Args:
        pipeline: transforms (configs or callables), applied in order.
        seed: of the transforms.
        test_mode: the epoch stays 0, whatever :meth:`set_epoch` is told.
        **kwargs: of MMEngine's ``BaseDataset``, as ``indices=1000``, or ``metainfo=dict(classes=...)``.
    """

    def __init__(self, *, pipeline: Sequence[dict | Callable] = (), seed: int = 0, **kwargs):
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # worker processes see it change
        built = [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in pipeline]
        super().__init__(pipeline=built, **kwargs)

    def set_epoch(self, epoch: int) -> None:
        """Choose the random numbers of the samples from now on, in worker processes too."""
        self._epoch.fill_(epoch)

    def prepare_data(self, idx: int) -> dict:
        with seeded(self.seed, 0 if self.test_mode else int(self._epoch), idx % len(self)):
            return super().prepare_data(idx)

    def get_cat_ids(self, idx: int) -> list[int]:
        return [self.get_data_info(idx)["gt_label"]]
