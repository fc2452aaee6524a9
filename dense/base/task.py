"""The shells of :mod:`pointsuite.engine` for the tasks of this package."""

from collections.abc import Sequence
from typing import ClassVar

from mmengine.registry import Registry
from torch import Tensor

from pointsuite.engine import predictor, task_model
from pointsuite.engine.zoo import ModelZoo

from ..registry import MODELS, ZOO


class TaskModel(task_model.TaskModel):
    __doc__ = task_model.TaskModel.__doc__
    registry: ClassVar[Registry] = MODELS


class Predictor(predictor.Predictor):
    __doc__ = predictor.Predictor.__doc__
    registry: ClassVar[Registry] = MODELS
    zoo: ClassVar[ModelZoo] = ZOO


def group_by_shape(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Places of tensors that can be stacked, group by group."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault(tuple(tensor.shape), []).append(i)
    return list(groups.values())
