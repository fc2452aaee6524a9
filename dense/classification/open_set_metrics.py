"""How well scores tell known classes from unknown ones: OSCR, AUROC, FPR95, OSA, and what follows from them.

Everywhere: labels (N) are 0..K-1 for known classes and negative for unknown; a sample is accepted where its
score is at least the threshold, so that samples of one score go together. Nothing changes where all scores
are put through a rising function.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mmengine.evaluator import BaseMetric
from numpy.typing import ArrayLike

from ..registry import METRICS


@dataclass(frozen=True)
class OpenSetCurve:
    """What is accepted at every threshold, the distinct scores from the highest to the lowest.

    Before the first one stands infinity, at which nothing is accepted.

    Attributes:
        thresholds: (M + 1) falling.
        known, right, unknown: samples that are accepted there: of known classes, those of them that are
            predicted right, and of unknown classes (M + 1), ints.
    """

    thresholds: np.ndarray
    known: np.ndarray
    right: np.ndarray
    unknown: np.ndarray

    @property
    def ccr(self) -> np.ndarray:
        """Correct classification rate: right and accepted, of all known samples (M + 1)."""
        return self.right / max(self.known[-1], 1)

    @property
    def fpr(self) -> np.ndarray:
        """False positive rate: accepted, of all unknown samples (M + 1)."""
        return self.unknown / max(self.unknown[-1], 1)

    @property
    def tpr(self) -> np.ndarray:
        """Accepted, of all known samples (M + 1)."""
        return self.known / max(self.known[-1], 1)

    def osa(self, balanced: bool = False) -> np.ndarray:
        """Open-set accuracy: known and right and accepted, or unknown and rejected, of all samples (M + 1).

        Args:
            balanced: known and unknown samples weigh half each, however many there are.
        """
        rejected = self.unknown[-1] - self.unknown
        if balanced:
            return (self.ccr + rejected / max(self.unknown[-1], 1)) / 2
        return (self.right + rejected) / (self.known[-1] + self.unknown[-1])


def open_set_curve(labels: ArrayLike, predicted: ArrayLike, scores: ArrayLike) -> OpenSetCurve:
    """Count what is accepted at every threshold.

    Args:
        labels, predicted: (N) ints, see the module.
        scores: (N), not NaN; infinities are the least and the most.

    Raises:
        ValueError: lengths that differ, NaN, or no sample of either kind.
    """
    labels, predicted, scores = np.asarray(labels), np.asarray(predicted), np.asarray(scores, float)
    if labels.ndim != 1 or not labels.shape == predicted.shape == scores.shape:
        found = ", ".join(str(values.shape) for values in (labels, predicted, scores))
        raise ValueError(f"labels, predicted and scores must be (N,), found {found}")
    if wrong := np.isnan(scores).sum():
        raise ValueError(f"scores must not be NaN, found {wrong} of {len(scores)}")
    known = labels >= 0
    if known.all() or not known.any():
        kind = "unknown" if known.all() else "known"
        raise ValueError(f"found {len(labels)} samples, none of them {kind}, wanted both kinds")
    order = np.argsort(-scores, kind="stable")
    scores, known = scores[order], known[order]
    right = known & (labels == predicted)[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # of each distinct score
    counts = [np.append(0, np.cumsum(hits)[last]) for hits in (known, right, ~known)]
    return OpenSetCurve(np.append(np.inf, scores[last]), *counts)


def auoscr(curve: OpenSetCurve) -> float:
    """Area under CCR over FPR, by trapezia: at most the accuracy on known classes."""
    return float(_area(curve.fpr, curve.ccr))


def auroc(curve: OpenSetCurve) -> float:
    """How often a known sample scores more than an unknown one; a tie counts half."""
    return float(_area(curve.fpr, curve.tpr))


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() / 2)


def ccr_at_fpr(curve: OpenSetCurve, fpr: float) -> float:
    """The largest CCR whose FPR is at most ``fpr``."""
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr must be in 0..1, found {fpr}")
    return float(curve.ccr[curve.fpr <= fpr + 1e-12].max())


def fpr_at_tpr(curve: OpenSetCurve, tpr: float = 0.95) -> float:
    """FPR at the largest threshold that accepts at least the share ``tpr`` of known samples: FPR95."""
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must be above 0 and at most 1, found {tpr}")
    return float(curve.fpr[np.argmax(curve.tpr >= tpr - 1e-12)])


def best_threshold(curve: OpenSetCurve, balanced: bool = False) -> tuple[float, float]:
    """The threshold of the largest OSA, the highest of several, and that OSA."""
    values = curve.osa(balanced)
    best = int(np.argmax(values))
    return float(curve.thresholds[best]), float(values[best])


def osa_at(curve: OpenSetCurve, threshold: float, balanced: bool = False) -> float:
    """OSA at any threshold."""
    place = int((curve.thresholds >= threshold).sum()) - 1  # the first is above all
    return float(curve.osa(balanced)[place])


def oosa(test: OpenSetCurve, validation: OpenSetCurve, balanced: bool = False) -> tuple[float, float]:
    """Operational open-set accuracy, and its threshold, which validation chooses.

    Source: Cruz et al., "Operational Open-Set Recognition and PostMax Refinement", ECCV 2024.

    Args:
        test: curve of what is reported.
        validation: of known samples and of surrogates of unknown ones, neither of them in the test.
        balanced: see :meth:`OpenSetCurve.osa`.

    Returns:
        OSA of the test at the threshold of the validation's largest OSA; that threshold.
    """
    threshold, _ = best_threshold(validation, balanced)
    return osa_at(test, threshold, balanced), threshold


def closed_set_accuracy(curve: OpenSetCurve) -> float:
    """Predicted right, of known samples: CCR where all is accepted."""
    return float(curve.ccr[-1])


def measure_open_set(
    curve: OpenSetCurve,
    validation: OpenSetCurve | None = None,
    *,
    fprs: Sequence[float] = (0.01, 0.1),
    balanced: bool = False,
) -> dict[str, float]:
    """All of the above, in percent: ``accuracy``, ``auoscr``, ``auroc``, ``fpr95``, ``ccr@fpr0.1``, ``oosa``.

    Args:
        curve: of the test.
        validation: chooses the threshold of ``oosa``; without it, there is none.
        fprs: at which CCR is told.
        balanced: see :meth:`OpenSetCurve.osa`.
    """
    found = {
        "accuracy": closed_set_accuracy(curve),
        "auoscr": auoscr(curve),
        "auroc": auroc(curve),
        "fpr95": fpr_at_tpr(curve),
        **{f"ccr@fpr{fpr:g}": ccr_at_fpr(curve, fpr) for fpr in fprs},
    }
    if validation is not None:
        found["oosa"], _ = oosa(curve, validation, balanced)
    return {name: 100 * value for name, value in found.items()}


@METRICS.register_module()
class OpenSetMetric(BaseMetric):
    """``open_set/accuracy``, ``open_set/auoscr``, ``open_set/auroc``, ``open_set/fpr95`` and
    ``open_set/ccr@fpr0.1``, in percent, of samples of known classes and of unknown ones, whose label is -1.

    The score is a sample's ``known_score``, as
    :class:`~dense.classification.open_set_model.OpenSetClassifier` gives it, or its largest probability.

    Args:
        fprs: at which CCR is told.
        threshold: tell OSA there, too, as ``open_set/osa``; OOSA, where validation chose it.
        balanced: see :meth:`OpenSetCurve.osa`.
        **kwargs: of MMEngine's ``BaseMetric``.

    Raises:
        ValueError: samples of one kind alone.
    """

    default_prefix = "open_set"

    def __init__(
        self,
        fprs: Sequence[float] = (0.01, 0.1),
        threshold: float | None = None,
        balanced: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.fprs, self.threshold, self.balanced = tuple(fprs), threshold, balanced

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            scores = sample["pred_scores"]
            score = sample.get("known_score")
            score = float(scores.max() if score is None else score)
            self.results.append((int(sample["gt_label"]), int(scores.argmax()), score))

    def compute_metrics(self, results: list[tuple[int, int, float]]) -> dict[str, float]:
        labels, predicted, scores = (np.array(values) for values in zip(*results, strict=True))
        curve = open_set_curve(labels, predicted, scores)
        found = measure_open_set(curve, fprs=self.fprs)
        if self.threshold is not None:
            found["osa"] = 100 * osa_at(curve, self.threshold, self.balanced)
        return found
