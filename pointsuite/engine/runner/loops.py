"""Loops of training that continue where they were interrupted."""

from typing import Any

import mmengine.runner

from ..loader import Loader
from ..randomness import set_random_state


class EpochBasedTrainLoop(mmengine.runner.EpochBasedTrainLoop):
    """MMEngine's, able to begin in the middle of an epoch; ``batch`` counts this epoch's batches so far.

    ``iter_offset`` is how many more iterations there were than epochs of this length have: where the number
    of processes changed.
    """

    batch = iter_offset = 0
    random_state: dict[str, Any] | None = None

    def run_epoch(self) -> None:
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        done = self.batch  # before the interruption; the loader leaves them out
        batches = enumerate(self.dataloader, done)
        if done:
            set_random_state(self.random_state)
        for idx, data_batch in batches:
            self.batch = idx + 1
            self.run_iter(idx, data_batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self.batch = 0


class EndlessBatches:
    """Pass after pass over a loader: what MMEngine's loop of iterations takes its batches from."""

    def __init__(self, loader: Loader):
        self.loader, self._batches = loader, None

    def __iter__(self) -> "EndlessBatches":
        return self

    def __next__(self) -> Any:
        while True:
            if self._batches is None:
                self._batches = iter(self.loader)
            for batch in self._batches:
                return batch
            self._batches = None

    def skip_iter(self, count: int) -> None:
        """Leave out the first ``count`` batches of the run, which was interrupted after them."""
        self.loader.start(0, count)
