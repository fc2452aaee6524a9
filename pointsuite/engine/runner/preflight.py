"""What is looked at before the first iteration; what cannot be right stops the run."""

from collections.abc import Callable, Iterator
from typing import Any

from mmengine.hooks import Hook
from torch import nn

from pointsuite.registry import HOOKS

Check = Callable[[Any, nn.Module], None]
CHECKS: list[Check] = []


def register_check(check: Check) -> Check:
    """Decorator of a function of a run's data set and model that raises a UsageError where they misfit."""
    CHECKS.append(check)
    return check


def iterate_datasets(dataset: Any) -> Iterator[Any]:
    """The data sets in what repeats or joins them."""
    inner = [dataset.dataset] if hasattr(dataset, "dataset") else getattr(dataset, "datasets", None)
    if inner is None:
        yield dataset
    else:
        for part in inner:
            yield from iterate_datasets(part)


@HOOKS.register_module()
class PreflightHook(Hook):
    """Checks the training data against the model before the first iteration, see :func:`register_check`."""

    priority = "VERY_HIGH"

    def before_train(self, runner) -> None:
        for dataset in iterate_datasets(runner.train_loop.dataloader.dataset):
            for check in CHECKS:
                check(dataset, runner.model)
