"""The Dice coefficient of slices and of the scans that they are of."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger

from ..registry import METRICS
from .datasets import parse_name

EPSILON = 1e-8


@METRICS.register_module()
class DiceMetric(BaseMetric):
    r"""Dice in percent, of each class, as published with self-guided attention.

    .. math:: D = (2 \sum |P \cap T| + 10^{-8}) / (\sum (|P| + |T|) + 10^{-8})

    over pixels: for ``2d`` the sums run over all slices, for ``3d`` over the slices of a scan, whose name the
    files carry (:func:`~.datasets.parse_name`); then the mean over the scans. A class that a scan neither has
    nor is given counts as 100 there. ``2d`` and ``3d`` are the means over the classes. A class that no mask
    has and no scan is given is NaN, and the means leave it out: the log names it.

    Args:
        ignore_index: label of pixels that do not count.
        skip: classes that the means leave out, by default the background.
        **kwargs: of ``BaseMetric``.
    """

    default_prefix = "dice"

    def __init__(self, ignore_index: int = 255, skip: Sequence[int] = (0,), **kwargs):
        super().__init__(**kwargs)
        self.ignore_index = ignore_index
        self.skip = tuple(skip)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        classes = len(self.dataset_meta["classes"])
        for sample in data_samples:
            found, true = (sample[key]["data"].flatten().cpu() for key in ("pred_sem_seg", "gt_sem_seg"))
            counted = true != self.ignore_index
            found, true = found[counted], true[counted]
            shared, *sizes = (
                torch.bincount(labels, minlength=classes).numpy()
                for labels in (true[found == true], found, true)
            )
            self.results.append((parse_name(sample["img_path"])[0], 2 * shared, sum(sizes)))

    def compute_metrics(self, results: list) -> dict[str, float]:
        scans = defaultdict(list)
        for scan, *counts in results:
            scans[scan].append(counts)  # each (2, classes)
        scans = np.array([np.sum(counts, 0) for counts in scans.values()], float)  # (scans, 2, classes)
        absent = scans[:, 1].sum(0) == 0
        by_class = {"2d": _dice(scans.sum(0)), "3d": _dice(scans.swapaxes(0, 1)).mean(0)}
        kept = [i for i in range(scans.shape[2]) if i not in self.skip]
        metrics = {}
        logger, names = MMLogger.get_current_instance(), self.dataset_meta["classes"]
        if lost := [names[i] for i in kept if absent[i]]:
            logger.warning(f"no mask has {', '.join(lost)}: their Dice is NaN, and the means leave them out")
        for kind, dice in by_class.items():
            dice[absent] = np.nan
            present = [i for i in kept if not absent[i]]
            metrics[kind] = dice[present].mean() if present else np.nan
            metrics |= {f"{kind}/{names[i]}": dice[i] for i in kept}
        logger.info(f"Dice of {len(scans)} scans, {len(results)} slices")
        return {name: round(float(value), 2) for name, value in metrics.items()}


def _dice(counts: np.ndarray) -> np.ndarray:
    """Percent, (...), of (2, ...): twice the shared pixels, and the sum of both sizes."""
    return 100 * (counts[0] + EPSILON) / (counts[1] + EPSILON)
