from .accuracy import ClassificationAccuracy, confusion_matrix, mean_class_accuracy, overall_accuracy
from .corruptions import CorruptionResult, evaluate_corruptions, format_corruptions, mean_accuracy
from .part_iou import PartIoU, restrict_to_parts, shape_iou
from .rotation_protocol import PROTOCOLS, ProtocolResult, evaluate_protocols, format_protocols

__all__ = [
    "PROTOCOLS",
    "ClassificationAccuracy",
    "CorruptionResult",
    "PartIoU",
    "ProtocolResult",
    "confusion_matrix",
    "evaluate_corruptions",
    "evaluate_protocols",
    "format_corruptions",
    "format_protocols",
    "mean_accuracy",
    "mean_class_accuracy",
    "overall_accuracy",
    "restrict_to_parts",
    "shape_iou",
]
