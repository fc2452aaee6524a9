"""Accuracy of image classification, in percent."""

from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric

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
