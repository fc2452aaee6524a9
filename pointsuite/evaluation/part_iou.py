"""Intersection over union of the parts of shapes, in percent."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from pointsuite.registry import METRICS


def restrict_to_parts(scores: np.ndarray, parts: Sequence[int]) -> np.ndarray:
    """The best of `parts` for each point: scores (N, all parts) -> int64 (N,), ties to the first of them."""
    parts = np.asarray(parts)
    return parts[scores[:, parts].argmax(1)]


def shape_iou(truth: np.ndarray, prediction: np.ndarray, parts: Sequence[int]) -> float:
    """Mean over `parts` of one shape's intersection over union, 0 to 1.

    A part that is neither there nor predicted counts as 1.

    Args:
        truth, prediction: integers (N,).

    Raises:
        ValueError: different shapes, or no parts.

    Source: Yi et al., "A scalable active framework for region annotation in 3D shape collections", 2016, as
    computed by PointNet and all who compare with it.
    """
    truth, prediction, parts = np.asarray(truth), np.asarray(prediction), np.asarray(parts)
    if truth.shape != prediction.shape or truth.ndim != 1 or not parts.size:
        raise ValueError(
            f"truth has shape {truth.shape}, prediction {prediction.shape}, and there are {parts.size} "
            "parts; wanted equal shapes (N,) and at least one part"
        )
    of_truth, of_prediction = truth == parts[:, None], prediction == parts[:, None]  # (parts, N)
    intersection = (of_truth & of_prediction).sum(1)
    union = (of_truth | of_prediction).sum(1)
    return float(np.where(union > 0, intersection / np.maximum(union, 1), 1).mean())


@METRICS.register_module()
class PartIoU(BaseMetric):
    """``instance_miou`` and ``class_miou``, in percent.

    Each point takes the best part of its shape's true category; points without a part (below 0) are left
    out, and so are shapes without any other. Instance mIoU is the mean over shapes of
    :func:`shape_iou`, class mIoU the mean over categories of their shapes' means. Categories of the dataset
    without samples are left out of that mean, and a warning names them.

    Args:
        category_parts: the parts of each category by its name; None where every part belongs to each.
        collect_device, prefix: see MMEngine.
    """

    def __init__(
        self,
        category_parts: Mapping[str, Sequence[int]] | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ):
        super().__init__(collect_device, prefix)
        self.category_parts = category_parts

    def _parts(self, category: int, count: int) -> Sequence[int]:
        if self.category_parts is None:
            return range(count)
        name = self.dataset_meta["classes"][category]
        if name not in self.category_parts:
            raise ValueError(
                f"category_parts names {list(self.category_parts)}, the dataset has a shape of {name!r} too"
            )
        parts = self.category_parts[name]
        if not len(parts) or min(parts) < 0 or max(parts) >= count:
            raise ValueError(
                f"category_parts of {name!r} are {list(parts)}, the network knows parts 0 to {count - 1}"
            )
        return parts

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            category, scores = int(sample["gt_label"]), sample["pred_part_scores"].float().cpu().numpy()
            parts = self._parts(category, scores.shape[1])
            truth = sample["gt_part"].cpu().numpy()
            known = truth >= 0
            if known.any():
                found = restrict_to_parts(scores[known], parts)
                self.results.append((category, shape_iou(truth[known], found, parts)))

    def compute_metrics(self, results: list[tuple[int, float]]) -> dict[str, float]:
        names = self.dataset_meta["classes"]
        category, iou = (np.array(column) for column in zip(*results, strict=True))
        count = np.bincount(category, minlength=len(names))
        absent = [name for name, number in zip(names, count, strict=True) if not number]
        if absent:
            message = f"class_miou leaves out categories without samples: {', '.join(absent)}"
            print_log(message, logger="current", level=logging.WARNING)
        of_class = np.bincount(category, iou, minlength=len(names))[count > 0] / count[count > 0]
        return {"instance_miou": float(100 * iou.mean()), "class_miou": float(100 * of_class.mean())}
