"""Metrics, protocols and tables of results. Importing this registers the metrics, and exports all."""

from pointsuite.engine.registry import import_package

from .accuracy import confusion_matrix, mean_class_accuracy, overall_accuracy
from .confusion import format_confusion
from .corruptions import evaluate_corruptions
from .part_iou import restrict_to_parts, shape_iou
from .rotation_comparison import RotationComparison
from .rotation_protocol import (
    PROTOCOLS,
    ProtocolResult,
    evaluate_protocols,
    format_protocols,
    is_invariant,
    training_rotation,
)

__all__ = [
    "PROTOCOLS",
    "ProtocolResult",
    "RotationComparison",
    "confusion_matrix",
    "evaluate_corruptions",
    "evaluate_protocols",
    "format_confusion",
    "format_protocols",
    "is_invariant",
    "mean_class_accuracy",
    "overall_accuracy",
    "restrict_to_parts",
    "shape_iou",
    "training_rotation",
]

import_package(__name__)
