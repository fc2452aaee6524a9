"""Batches whose samples' random numbers follow from seed, pass over the data, index and turn alone."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from operator import index as as_int
from typing import Any, NamedTuple

from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from .randomness import drawing


class Loader(DataLoader):
    """PyTorch's, which numbers the samples that it draws, for any data set, wrapper and sampler.

    Each sample is made within :func:`~.randomness.drawing`, whatever the number of workers.
    """

    seed = 0
    counts_passes = False  # True for training: each iteration is another pass
    _pass, _skipped = 0, 0

    def start(self, number: int, batches: int = 0) -> None:
        """Let the next iteration be the pass ``number``, without its first ``batches``, which are not made.

        Where the pass has fewer, the rest is left out of the next iterations.
        """
        self._pass, self._skipped = number, batches

    def _get_iterator(self) -> Any:
        if isinstance(self.dataset, IterableDataset):
            return super()._get_iterator()
        view = copy.copy(self)  # PyTorch lets nobody exchange these two
        sampler = "sampler" if self.batch_sampler is None else "batch_sampler"
        view.__dict__.update({"dataset": _Drawn(self.dataset, self.seed), sampler: _Draws(self)})
        return DataLoader._get_iterator(view)

    def _next_pass(self) -> int:
        """The number of the pass that begins now; its sampler is told."""
        number = self._pass
        if self.counts_passes:
            self._pass += 1
            for sampler in (self.sampler, getattr(self.batch_sampler, "sampler", None)):
                if hasattr(sampler, "set_epoch"):
                    sampler.set_epoch(number)
        return number


class _Draw(NamedTuple):
    """An index as the sampler gives it, and what random numbers follow from."""

    index: Any
    key: tuple[int, int, int]  # pass, index, turn


class _Drawn(Dataset):
    """A data set by draws in place of indices."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, draw: _Draw) -> Any:
        with drawing(self.seed, *draw.key):
            return self.dataset[draw.index]


class _Draws:
    """The draws of a loader's sampler or batch sampler."""

    def __init__(self, loader: Loader):
        self.loader = loader
        self.batched = loader.batch_sampler is not None
        self.indices = loader.batch_sampler if self.batched else loader.sampler

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Any]:
        loader = self.loader
        number, count_turn = loader._next_pass(), self._turn_counter()
        for found in self.indices:
            draws = []
            for index in found if self.batched else [found]:
                try:
                    word = as_int(index) % 2**32
                except TypeError:  # samplers may hand out what only their data sets know
                    word = 0
                draws.append(_Draw(index, (number, word, count_turn(word))))
            if loader._skipped:
                loader._skipped -= 1
            else:
                yield draws if self.batched else draws[0]

    def _turn_counter(self) -> Callable[[int], int]:
        """A function that says how many samples of an index come before the next one, in all processes."""
        rank, world_size = get_dist_info()
        counts: Counter = Counter()
        # MMEngine's deal one order of all samples after another to the processes, so that the place says it
        dealer = self.indices.sampler if type(self.indices) is BatchSampler else self.indices
        if world_size > 1 and type(dealer) in (DefaultSampler, InfiniteSampler):
            size = len(dealer.dataset)
            places = count(rank, world_size)
            return lambda index: next(places) // size

        def count_turn(index: int) -> int:
            counts[index] += 1
            return (counts[index] - 1) * world_size + rank

        return count_turn
