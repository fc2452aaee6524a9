"""Metrics, protocols and tables of results. Importing this registers the metrics, and exports all."""

from pointsuite.engine.registry import import_package

from .accuracy import confusion_matrix, mean_class_accuracy, overall_accuracy
from .confusion import format_confusion
from .corruptions import CorruptionResult, evaluate_corruptions, format_corruptions, mean_accuracy
from .part_iou import restrict_to_parts, shape_iou
from .rotation_comparison import RotationComparison
from .rotation_protocol import PROTOCOLS, ProtocolResult, evaluate_protocols, format_protocols

__all__ = [
    "PROTOCOLS",
    "CorruptionResult",
    "ProtocolResult",
    "RotationComparison",
    "confusion_matrix",
    "evaluate_corruptions",
    "evaluate_protocols",
    "format_confusion",
    "format_corruptions",
    "format_protocols",
    "mean_accuracy",
    "mean_class_accuracy",
    "overall_accuracy",
    "restrict_to_parts",
    "shape_iou",
]

import_package(__name__)
