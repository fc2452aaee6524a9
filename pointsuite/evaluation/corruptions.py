"""Accuracy of a classifier whose clouds are corrupted."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from mmengine.dataset import Compose

from pointsuite.datasets import PointCloudDataset
from pointsuite.engine.corruptions import (
    SEVERITIES,
    CorruptionResult,
    choose_rows,
    evaluate_each,
    make_corruptions,
)
from pointsuite.transforms import CORRUPTIONS, NormalizeUnitSphere, PackPoints, RepeatPoints, SamplePoints

from .rotation_protocol import _evaluating, _predict


def evaluate_corruptions(
    network: Callable,
    dataset: PointCloudDataset,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    *,
    max_samples: int | None = None,
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
        max_samples: test so many, spread evenly over the dataset; None for all.

    Returns:
        {name: result}, the first named "clean", with the one severity 0.

    Raises:
        ValueError: an unknown corruption or severity, a pipeline without NormalizeUnitSphere or that does not
            end in PackPoints, or logits of the wrong shape.
    """
    chosen = make_corruptions(CORRUPTIONS, corruptions, severities)
    *steps, pack = dataset.pipeline.transforms
    if not isinstance(pack, PackPoints) or not any(isinstance(step, NormalizeUnitSphere) for step in steps):
        raise ValueError(
            "the dataset's pipeline must have NormalizeUnitSphere, because levels are in radii of the cloud, "
            f"and end in PackPoints, found {[*steps, pack]}"
        )
    rows = choose_rows(len(dataset), max_samples)
    labels, num_classes = dataset.clouds.label[rows].astype(np.int64), len(dataset.metainfo["classes"])
    again = [step for step in steps if not isinstance(step, SamplePoints)]

    def clouds(*corrupted):
        before, after = Compose(steps), Compose([*corrupted, pack])
        for row in rows.tolist():
            sample = before(dataset.get_data_info(row))
            yield after({**sample, "rng": np.random.default_rng([seed, row])})["inputs"]

    with _evaluating(network) as network:
        enough = RepeatPoints(_fewest_points(network, next(clouds()).to(device)))

        def predict(*corrupted):
            steps = [*corrupted, enough, *again] if corrupted else []
            return _predict(network, clouds(*steps), batch_size, device, num_classes)

        return evaluate_each(predict, labels, chosen)


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
