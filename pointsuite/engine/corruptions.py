"""Accuracy of classifiers whose inputs are corrupted: what clouds and images share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from mmengine.registry import Registry

SEVERITIES = (1, 2, 3, 4, 5)
CLEAN = "clean"


@dataclass(frozen=True)
class Corruption:
    """A transform of a sample dict; ``levels`` says what its severities 1 to 5 mean.

    A family of corruptions (``class Family(Corruption)``) has a ``table`` of its members by the names of
    reports, and the ``registry`` of its transforms; a member is ``class Noise(Family, name="noise")``.
    """

    severity: int = 1

    table: ClassVar[dict[str, type["Corruption"]]]
    registry: ClassVar[Registry]
    levels: ClassVar[tuple[float, ...]]
    unit: ClassVar[str]

    def __init_subclass__(cls, name: str | None = None, **kwargs):
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.table[name] = cls
            cls.registry.register_module(module=cls)

    def __post_init__(self):
        if self.severity not in SEVERITIES:
            raise ValueError(f"{type(self).__name__}: severity is {self.severity!r}, wanted 1 to 5")

    @property
    def level(self) -> float:
        return self.levels[self.severity - 1]


@dataclass(frozen=True)
class CorruptionResult:
    """What one corruption does to M samples.

    Attributes:
        severities: those tested.
        levels: what they mean, in `unit`.
        labels: int64 (M,).
        predictions: int64 (severities, M).
    """

    severities: tuple[int, ...]
    levels: tuple[float, ...]
    unit: str
    labels: np.ndarray
    predictions: np.ndarray

    @property
    def overall_accuracy(self) -> np.ndarray:
        """Of each severity, in percent."""
        return 100 * (self.predictions == self.labels).mean(1)

    @property
    def mean_class_accuracy(self) -> np.ndarray:
        """Of each severity, in percent; leaves out classes without samples."""
        right = self.predictions == self.labels
        return 100 * np.mean([right[:, self.labels == c].mean(1) for c in np.unique(self.labels)], 0)


def evaluate_each(
    predict: Callable[..., np.ndarray],
    labels: np.ndarray,
    corruptions: Mapping[str, Sequence[Corruption]],
) -> dict[str, CorruptionResult]:
    """The results of each corruption by name, the first named "clean", with the one severity 0.

    Args:
        predict: of no corruption, or of one, the predicted classes, int64 (M,).
        labels: int64 (M,).
        corruptions: by name, one for each severity.
    """
    results = {CLEAN: CorruptionResult((0,), (0.0,), "", labels, predict()[None])}
    for name, chosen in corruptions.items():
        results[name] = CorruptionResult(
            tuple(corruption.severity for corruption in chosen),
            tuple(corruption.level for corruption in chosen),
            chosen[0].unit,
            labels,
            np.stack([predict(corruption) for corruption in chosen]),
        )
    return results


def make_corruptions(
    table: Mapping[str, type[Corruption]], names: Sequence[str], severities: Sequence[int], **options: Any
) -> dict[str, list[Corruption]]:
    """Corruptions by name, one for each severity.

    Raises:
        ValueError: an unknown name or severity.
    """
    if unknown := [name for name in names if name not in table]:
        raise ValueError(f"corruption {unknown[0]!r}, wanted one of {', '.join(map(repr, table))}")
    return {name: [table[name](severity, **options) for severity in severities] for name in names}


def choose_rows(count: int, wanted: int | None) -> np.ndarray:
    """Rows of a data set of ``count`` samples, ``wanted`` of them, spread evenly; None for all: int64."""
    if wanted is None or wanted >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, wanted).round().astype(np.int64)


def mean_accuracy(results: Mapping[str, CorruptionResult]) -> float:
    """Overall accuracy in percent, mean over severities and corruptions without the clean samples."""
    return float(np.mean([r.overall_accuracy.mean() for name, r in results.items() if name != CLEAN]))


def format_corruptions(results: Mapping[str, CorruptionResult]) -> str:
    """A table of overall accuracies in percent: a corruption a row, a severity a column, and their mean."""
    severities = next(r.severities for name, r in results.items() if name != CLEAN)
    columns = [*(f"severity {severity}" for severity in severities), "mean"]
    lines = [" ".join([f"{'corruption':20}", *(f"{title:>11}" for title in columns)])]
    for name, result in results.items():
        accuracies = result.overall_accuracy
        cells = [f"{a:11.2f}" for a in accuracies] if name != CLEAN else [" " * 11] * len(severities)
        lines.append(" ".join([f"{name:20}", *cells, f"{accuracies.mean():11.2f}"]))
    blank = [" " * 11] * len(severities)
    lines.append(" ".join([f"{'mean of corruptions':20}", *blank, f"{mean_accuracy(results):11.2f}"]))
    return "\n".join(lines)


def report_corruptions(results: Mapping[str, CorruptionResult]) -> dict[str, Any]:
    """The same, and what severities mean, as JSON has it."""

    def row(result: CorruptionResult) -> dict[str, Any]:
        facts = {key: value for key, value in asdict(result).items() if not isinstance(value, np.ndarray)}
        return {
            **facts,
            "overall_accuracy": result.overall_accuracy.tolist(),
            "mean_class_accuracy": result.mean_class_accuracy.tolist(),
        }

    clean = results[CLEAN]
    return {
        "num_samples": len(clean.labels),
        "clean": {
            "overall_accuracy": float(clean.overall_accuracy[0]),
            "mean_class_accuracy": float(clean.mean_class_accuracy[0]),
        },
        "mean_overall_accuracy": mean_accuracy(results),
        "corruptions": {name: row(result) for name, result in results.items() if name != CLEAN},
    }
