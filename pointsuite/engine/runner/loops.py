"""Loops of training that continue where they were interrupted."""

from collections import deque
from itertools import islice
from typing import Any

import mmengine.runner

from ..randomness import set_random_state


class EpochBasedTrainLoop(mmengine.runner.EpochBasedTrainLoop):
    """MMEngine's, able to begin in the middle of an epoch; ``batch`` counts this epoch's batches so far."""

    batch = 0
    random_state: dict[str, Any] | None = None

    def run_epoch(self) -> None:
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        batches = enumerate(self.dataloader)
        if self.batch:
            deque(islice(batches, self.batch), maxlen=0)  # trained on before the interruption
            set_random_state(self.random_state)
        for idx, data_batch in batches:
            self.batch = idx + 1
            self.run_iter(idx, data_batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self.batch = 0
