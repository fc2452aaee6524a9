"""Which classes are taken for which, of whatever a model labels."""

from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric

from pointsuite.engine.errors import UsageError
from pointsuite.engine.tables import align_columns
from pointsuite.registry import METRICS

from .accuracy import confusion_matrix

TRUTH_AND_PREDICTION = (("gt_sem_seg", "pred_sem_seg"), ("gt_part", "pred_part"), ("gt_label", "pred_label"))


@METRICS.register_module()
class ConfusionMatrix(BaseMetric):
    """Counts pairs of true and predicted class, of samples, points or pixels, and reports no number.

    Where the truth is no class (as 255, which is not to be counted), nothing counts.

    Attributes:
        classes: names of the C classes, once a sample was seen.
        matrix: after a test, in the main process, int64 (C, C): row = truth, column = prediction.
    """

    classes: Sequence[str] = ()
    matrix: np.ndarray | None = None

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            pair = _find_pair(sample)
            kind = "part_classes" if "gt_part" in pair else "classes"
            self.classes = (self.dataset_meta or {}).get(kind) or ()
            if not self.classes:
                raise UsageError(f"the test data name no {kind}")
            truth, prediction = (_as_labels(sample[key]) for key in pair)
            counted = (truth >= 0) & (truth < len(self.classes))
            matrix = confusion_matrix(truth[counted], prediction[counted], len(self.classes))
            places = np.argwhere(matrix)  # few: the matrices of 50,000 images would not fit
            self.results.append((places, matrix[tuple(places.T)]))

    def compute_metrics(self, results: list) -> dict:
        self.matrix = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for places, counts in results:
            self.matrix[tuple(places.T)] += counts
        return {}


def _find_pair(sample: dict) -> tuple[str, str]:
    for pair in TRUTH_AND_PREDICTION:
        if all(key in sample for key in pair):
            return pair
    raise UsageError(
        f"a tested sample has {', '.join(sample)}, wanted one of the pairs "
        f"{'; '.join(' and '.join(pair) for pair in TRUTH_AND_PREDICTION)}"
    )


def _as_labels(value) -> np.ndarray:
    """A flat array of the labels in a tensor, or in mmseg's container of one."""
    return np.asarray((value["data"] if isinstance(value, dict) else value).cpu()).reshape(-1)


def format_confusion(matrix: np.ndarray, classes: Sequence[str], most: int = 10) -> str:
    """Recall, precision and IoU of each class in percent, then the ``most`` commonest confusions.

    Args:
        matrix: int (C, C): row = truth, column = prediction.
        classes: their C names.
    """
    right, true, said = np.diag(matrix), matrix.sum(1), matrix.sum(0)

    def percent(part, whole) -> list[str]:
        return [f"{100 * p / w:.2f}" if w else "-" for p, w in zip(part, whole, strict=True)]

    columns = [
        ["class", *map(str, classes)],
        ["true", *(f"{n:,}" for n in true)],
        ["recall", *percent(right, true)],
        ["precision", *percent(right, said)],
        ["IoU", *percent(right, true + said - right)],
    ]
    lines = [align_columns(list(zip(*columns, strict=True)))]
    wrong = matrix - np.diag(right)
    lines.append("most often confused:")
    for place in np.argsort(-wrong, axis=None, kind="stable")[:most]:
        row, column = divmod(int(place), len(classes))
        if wrong[row, column]:
            share = 100 * wrong[row, column] / true[row]
            lines.append(f"  {classes[row]} -> {classes[column]}: {wrong[row, column]:,} ({share:.2f} %)")
    return "\n".join(lines)
