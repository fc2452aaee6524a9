"""The bases that backbones, tasks and predictors are made from, and what the tasks share."""

from pointsuite.engine.registry import import_package

from .backbone import Backbone, BaseBackbone, register_backbone
from .classification import ClassificationNetwork
from .task import Predictor, TaskModel
from .token_backbone import TokenBackbone

__all__ = [
    "Backbone",
    "BaseBackbone",
    "ClassificationNetwork",
    "Predictor",
    "TaskModel",
    "TokenBackbone",
    "register_backbone",
]

import_package(__name__)
