"""Accuracy of image classification, in percent."""

from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from torch import Tensor

from ..registry import METRICS


@METRICS.register_module()
class TopK(BaseMetric):
    """``accuracy/top1``, ``accuracy/top5``, ...: how often the truth is among the k best scores, in percent.

    Of equal scores, that of the smaller class index counts as better, as ``argmax`` has it. A k that is not
    below the number of classes is left out.

    Args:
        topk: values of k.
        **kwargs: of MMEngine's ``BaseMetric``.

    Raises:
        ValueError: scores that are not finite, or a label that is not one of their classes.
    """

    default_prefix = "accuracy"

    def __init__(self, topk: Sequence[int] = (1, 5), **kwargs):
        super().__init__(**kwargs)
        if not topk or min(topk) < 1:
            raise ValueError(f"topk must be numbers of at least 1, found {tuple(topk)}")
        self.topk = tuple(topk)

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            scores, label = sample["pred_scores"], int(sample["gt_label"])
            where = sample.get("img_path", f"image {sample.get('index')}")
            if not scores.isfinite().all():
                raise ValueError(f"{where}: scores are not finite")
            if not 0 <= label < len(scores):
                raise ValueError(f"{where}: found the label {label}, wanted 0 to {len(scores) - 1}")
            better = (scores > scores[label]).sum() + (scores[:label] == scores[label]).sum()
            self.results.append((int(better), len(scores)))

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        rank, classes = np.array(results).T
        return {f"top{k}": float(100 * (rank < k).mean()) for k in self.topk if k < classes[0]}


@METRICS.register_module()
class BalancedAccuracy(BaseMetric):
    """``accuracy/balanced`` and ``accuracy/f1``: recall and F1 of each class, in percent, on average.

    Classes that no image is of count for nothing; the F1 of one that is never found is 0. So classes that are
    rare count as much as frequent ones.

    Args:
        by_class: give ``accuracy/recall_NAME`` and ``accuracy/f1_NAME`` of each class, too.
        **kwargs: of MMEngine's ``BaseMetric``.

    Raises:
        ValueError: a label that is not one of the scores' classes.
    """

    default_prefix = "accuracy"

    def __init__(self, by_class: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.by_class = by_class

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            scores, label = sample["pred_scores"], int(sample["gt_label"])
            if not 0 <= label < len(scores):
                where = sample.get("img_path", f"image {sample.get('index')}")
                raise ValueError(f"{where}: found the label {label}, wanted 0 to {len(scores) - 1}")
            self.results.append((label, int(scores.argmax()), len(scores)))

    def compute_metrics(self, results: list[tuple[int, int, int]]) -> dict[str, float]:
        truth, found, classes = np.array(results).T
        count = classes[0]
        table = np.bincount(count * truth + found, minlength=count**2).reshape(count, count)
        hits, given = table.diagonal(), table.sum(1)
        present = given > 0
        recall = 100 * hits[present] / given[present]
        f1 = 200 * hits[present] / (given + table.sum(0))[present]
        metrics = {"balanced": float(recall.mean()), "f1": float(f1.mean())}
        if self.by_class:
            known = (self.dataset_meta or {}).get("classes", range(count))
            names = [name for name, here in zip(known, present, strict=True) if here]
            for kind, values in (("recall", recall), ("f1", f1)):
                metrics |= {f"{kind}_{name}": float(v) for name, v in zip(names, values, strict=True)}
        return metrics


@METRICS.register_module()
class Agreement(BaseMetric):
    """``accuracy/kappa`` and ``accuracy/mcc``, from -1 to 1: predictions and truth against chance; and
    ``accuracy/precision``, ``accuracy/recall``, ``accuracy/macro_f1``, means over classes, in percent.

    See :func:`cohen_kappa`, :func:`matthews_correlation`, :func:`macro_scores`.

    Raises:
        ValueError: a label that is not one of the scores' classes.
    """

    default_prefix = "accuracy"

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        self.results += [(_label_and_scores(sample)[0], *_found(sample)) for sample in data_samples]

    def compute_metrics(self, results: list[tuple[int, int, int]]) -> dict[str, float]:
        truth, found, classes = np.array(results).T
        count = int(classes[0])
        table = np.bincount(count * truth + found, minlength=count**2).reshape(count, count)
        precision, recall, f1 = macro_scores(table)
        return {
            "kappa": cohen_kappa(table),
            "mcc": matthews_correlation(table),
            "precision": 100 * precision,
            "recall": 100 * recall,
            "macro_f1": 100 * f1,
        }


@METRICS.register_module()
class ConfidenceGap(BaseMetric):
    """``confidence/right``, ``confidence/wrong`` and ``confidence/gap``: the largest probability, in percent,
    on average over right and over wrong predictions, and their difference.

    What has no prediction is left out, and the gap with it.

    Raises:
        ValueError: a label that is not one of the scores' classes.
    """

    default_prefix = "confidence"

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            label, scores = _label_and_scores(sample)
            self.results.append((float(scores.max()), int(scores.argmax()) == label))

    def compute_metrics(self, results: list[tuple[float, bool]]) -> dict[str, float]:
        confidence, right = np.array(results).T
        parts = {"right": confidence[right == 1], "wrong": confidence[right == 0]}
        means = {name: float(100 * values.mean()) for name, values in parts.items() if len(values)}
        return {**means, "gap": means["right"] - means["wrong"]} if len(means) == 2 else means


def _label_and_scores(sample: dict) -> tuple[int, Tensor]:
    scores, label = sample["pred_scores"], int(sample["gt_label"])
    if not 0 <= label < len(scores):
        where = sample.get("img_path", f"image {sample.get('index')}")
        raise ValueError(f"{where}: found the label {label}, wanted 0 to {len(scores) - 1}")
    return label, scores


def _found(sample: dict) -> tuple[int, int]:
    """The predicted class, and how many there are."""
    return int(sample["pred_scores"].argmax()), len(sample["pred_scores"])


def cohen_kappa(table: np.ndarray) -> float:
    r"""Agreement beyond chance, :math:`(p_o - p_e) / (1 - p_e)`: 1 for all right, 0 for one class for all.

    Where truth and predictions are one class each, 0 / 0, it is 0.

    Args:
        table: (K, K) counts, truth by prediction.

    Raises:
        ValueError: it is not square, or empty.

    Source: Cohen, "A Coefficient of Agreement for Nominal Scales", 1960.
    """
    table = _check_table(table)
    total = table.sum()
    by_chance = table.sum(0) @ table.sum(1) / total**2
    return 0.0 if by_chance == 1 else float((table.trace() / total - by_chance) / (1 - by_chance))


def matthews_correlation(table: np.ndarray) -> float:
    """Correlation of truth and prediction, of any number of classes; 0 where either is constant.

    Args:
        table: (K, K) counts, truth by prediction.

    Raises:
        ValueError: it is not square, or empty.

    Source: Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", 2004.
    """
    table = _check_table(table)
    total, given, found = table.sum(), table.sum(1), table.sum(0)
    spread = (total**2 - given @ given) * (total**2 - found @ found)
    return 0.0 if spread == 0 else float((table.trace() * total - given @ found) / spread**0.5)


def macro_scores(table: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1, means over the classes that truth or predictions have; 0 / 0 counts as 0.

    Args:
        table: (K, K) counts, truth by prediction.

    Raises:
        ValueError: it is not square, or empty.
    """
    table = _check_table(table)
    hits, given, found = table.diagonal(), table.sum(1), table.sum(0)
    seen = given + found > 0
    precision, recall = (hits / np.maximum(total, 1) for total in (found, given))
    f1 = 2 * hits / np.maximum(given + found, 1)
    return tuple(float(values[seen].mean()) for values in (precision, recall, f1))


def _check_table(table: np.ndarray) -> np.ndarray:
    table = np.asarray(table, float)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not table.sum() > 0:
        raise ValueError(f"wanted counts (K, K), at least one, found {table.sum():g} in {table.shape}")
    return table
