"""Accuracy of a classifier whose clouds are corrupted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.dataset import Compose

from pointsuite.datasets import PointCloudDataset
from pointsuite.transforms import (
    CORRUPTIONS,
    SEVERITIES,
    NormalizeUnitSphere,
    PackPoints,
    RepeatPoints,
    SamplePoints,
)

from .accuracy import confusion_matrix, mean_class_accuracy, overall_accuracy
from .rotation_protocol import _evaluating, _predict

CLEAN = "clean"


@dataclass(frozen=True)
class CorruptionResult:
    """What one corruption does to M shapes.

    Attributes:
        severities: those tested.
        levels: what they mean, in `unit`.
        labels: int64 (M,).
        predictions: int64 (severities, M).
        num_classes: of the dataset.
    """

    severities: tuple[int, ...]
    levels: tuple[float, ...]
    unit: str
    labels: np.ndarray
    predictions: np.ndarray
    num_classes: int

    def _measure(self, measure: Callable[[np.ndarray], float]) -> np.ndarray:
        confusions = (confusion_matrix(self.labels, row, self.num_classes) for row in self.predictions)
        return np.array([measure(confusion) for confusion in confusions])

    @property
    def overall_accuracy(self) -> np.ndarray:
        """Of each severity, in percent."""
        return self._measure(overall_accuracy)

    @property
    def mean_class_accuracy(self) -> np.ndarray:
        """Of each severity, in percent; leaves out classes without samples."""
        return self._measure(mean_class_accuracy)


def evaluate_corruptions(
    network: Callable,
    dataset: PointCloudDataset,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    *,
    max_shapes: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> dict[str, CorruptionResult]:
    """Test a network on corrupted clouds.

    A cloud goes through the dataset's pipeline, which samples and scales it, then through the corruption,
    then through the pipeline again but for the sampling, because whoever meets such a cloud scales it as it
    is: one outlier shrinks the rest. Clouds too small for the network get copies of their points. A
    corruption draws from (seed, index) alone: the same for every network and severity.

    Args:
        network: what maps (B, N, 6) to logits (B, classes), a module or MMEngine model (called with
            mode="tensor"), on `device`.
        dataset: with a pipeline that has NormalizeUnitSphere and ends in PackPoints.
        corruptions: names out of ``CORRUPTIONS`` in :mod:`pointsuite.transforms.corrupt`.
        severities: out of 1 to 5.
        max_shapes: test so many, spread evenly over the dataset; None for all.

    Returns:
        {name: result}, the first named "clean", with the one severity 0.

    Raises:
        ValueError: an unknown corruption or severity, a pipeline without NormalizeUnitSphere or that does not
            end in PackPoints, or logits of the wrong shape.
    """
    if unknown := [name for name in corruptions if name not in CORRUPTIONS]:
        raise ValueError(f"corruption {unknown[0]!r}, wanted one of {', '.join(map(repr, CORRUPTIONS))}")
    *steps, pack = dataset.pipeline.transforms
    if not isinstance(pack, PackPoints) or not any(isinstance(step, NormalizeUnitSphere) for step in steps):
        raise ValueError(
            "the dataset's pipeline must have NormalizeUnitSphere, because levels are in radii of the cloud, "
            f"and end in PackPoints, found {[*steps, pack]}"
        )
    count = len(dataset)
    rows = np.arange(count)
    if max_shapes is not None and max_shapes < count:
        rows = np.linspace(0, count - 1, max_shapes).round().astype(np.int64)
    labels, num_classes = dataset.clouds.label[rows].astype(np.int64), len(dataset.metainfo["classes"])
    again = [step for step in steps if not isinstance(step, SamplePoints)]

    def clouds(*corrupted):
        before, after = Compose(steps), Compose([*corrupted, pack])
        for row in rows.tolist():
            sample = before(dataset.get_data_info(row))
            yield after({**sample, "rng": np.random.default_rng([seed, row])})["inputs"]

    def predict(*corrupted):
        return _predict(network, clouds(*corrupted), batch_size, device, num_classes)

    with _evaluating(network) as network:
        results = {
            CLEAN: CorruptionResult((0,), (0.0,), "", labels, predict()[None], num_classes),
        }
        enough = RepeatPoints(_fewest_points(network, next(clouds()).to(device)))
        for name in corruptions:
            chosen = [CORRUPTIONS[name](severity) for severity in severities]
            predictions = np.stack([predict(corruption, enough, *again) for corruption in chosen])
            levels = tuple(corruption.level for corruption in chosen)
            results[name] = CorruptionResult(
                tuple(severities), levels, CORRUPTIONS[name].unit, labels, predictions, num_classes
            )
    return results


def _fewest_points(network: Callable, cloud: torch.Tensor) -> int:
    """The fewest leading points of a cloud (N, 6) that the network takes: with fewer it raises ValueError."""
    refused, taken = 0, len(cloud)
    while taken - refused > 1:
        middle = (refused + taken) // 2
        try:
            network(cloud[None, :middle])
            taken = middle
        except ValueError:
            refused = middle
    return taken


def mean_accuracy(results: Mapping[str, CorruptionResult]) -> float:
    """Overall accuracy in percent, mean over severities and corruptions without the clean clouds."""
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
