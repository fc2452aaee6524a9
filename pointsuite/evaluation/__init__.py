from .accuracy import ClassificationAccuracy, confusion_matrix, mean_class_accuracy, overall_accuracy
from .rotation_protocol import PROTOCOLS, ProtocolResult, evaluate_protocols, format_protocols

__all__ = [
    "PROTOCOLS",
    "ClassificationAccuracy",
    "ProtocolResult",
    "confusion_matrix",
    "evaluate_protocols",
    "format_protocols",
    "mean_class_accuracy",
    "overall_accuracy",
]
