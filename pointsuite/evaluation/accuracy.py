"""Accuracy of a classifier, in percent."""

import logging
from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from pointsuite.registry import METRICS


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pairs of truth and prediction.

    Args:
        labels, predictions: integers of equal shape, 0 to num_classes - 1.

    Returns:
        int64 (num_classes, num_classes): row = truth, column = prediction.

    Raises:
        ValueError: different shapes, or a value out of range.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise ValueError(f"labels have shape {labels.shape}, predictions {predictions.shape}, wanted equal")
    for name, values in (("labels", labels), ("predictions", predictions)):
        outside = values[(values < 0) | (values >= num_classes)]
        if outside.size:
            raise ValueError(f"{name} hold {outside[0]}, wanted 0 to {num_classes - 1}")
    pairs = labels.astype(np.int64).ravel() * num_classes + predictions.ravel()
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def overall_accuracy(confusion: np.ndarray) -> float:
    """Share of samples that are right, in percent."""
    return float(100 * np.trace(confusion) / _total(confusion))


def mean_class_accuracy(confusion: np.ndarray) -> float:
    """Mean over classes of the share of their samples that are right (recall), in percent.

    Classes without samples are left out of the mean.
    """
    _total(confusion)
    count = confusion.sum(1)
    present = count > 0
    return float(100 * (np.diag(confusion)[present] / count[present]).mean())


def _total(confusion: np.ndarray) -> int:
    total = int(confusion.sum())
    if not total:
        raise ValueError("the confusion matrix is empty, wanted at least one sample")
    return total


@METRICS.register_module()
class ClassificationAccuracy(BaseMetric):
    """``overall_accuracy`` and ``mean_class_accuracy`` of ``pred_label`` against ``gt_label``, in percent.

    Classes of the dataset without samples are left out of the mean, and a warning names them.
    """

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            self.results.append((int(sample["gt_label"]), int(sample["pred_label"])))

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        classes = self.dataset_meta["classes"]
        labels, predictions = np.array(results, np.int64).reshape(-1, 2).T
        confusion = confusion_matrix(labels, predictions, len(classes))
        absent = [name for name, count in zip(classes, confusion.sum(1), strict=True) if not count]
        if absent:
            message = f"mean_class_accuracy leaves out classes without samples: {', '.join(absent)}"
            print_log(message, logger="current", level=logging.WARNING)
        return {
            "overall_accuracy": overall_accuracy(confusion),
            "mean_class_accuracy": mean_class_accuracy(confusion),
        }
