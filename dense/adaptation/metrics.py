"""Artefacts among patch tokens: how many stand out by their length, and what patches know of their image.

Darcet et al., "Vision Transformers Need Registers", ICLR 2024, found tokens of far larger norm than others at
places of little content. What is far larger is told here by Tukey's fences.
"""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor
from torch.nn.functional import one_hot

from ..registry import METRICS

SIDES = ("before", "after")


def find_artifacts(norms: Tensor, factor: float = 3.0) -> Tensor:
    """Which norms lie more than ``factor`` ranges between the quartiles above the third quartile.

    Args:
        norms: of the patches of all images that are looked at, of any shape, finite.

    Returns:
        bool, of the same shape.
    """
    if not norms.numel() or not norms.isfinite().all():
        raise ValueError(f"norms must be finite, at least one, found {tuple(norms.shape)} with others")
    ordered = norms.flatten().double().sort().values  # torch.quantile takes 16 million values at most
    low, high = (ordered[round(q * (len(ordered) - 1))] for q in (0.25, 0.75))
    return norms > high + factor * (high - low)


def probe_patches(
    features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor, ridge: float = 1e-2
) -> float:
    """Share of single patches whose image's class a linear map of the patch finds, fitted to other images.

    Least squares of the classes' indicators, in closed form.

    Args:
        features, test_features: (B, N, C).
        labels, test_labels: (B,) int64, of the images.
        ridge: penalty, in units of the features' mean variance.
    """
    if len(features) != len(labels) or len(test_features) != len(test_labels) or not len(labels):
        raise ValueError(
            f"features and labels must be of as many images, found {len(features)} and {len(labels)}, "
            f"{len(test_features)} and {len(test_labels)}"
        )
    count = features.shape[1]
    x = features.flatten(0, 1).double()
    mean = x.mean(0)
    x = x - mean
    classes = int(torch.cat((labels, test_labels)).max()) + 1
    y = one_hot(labels.repeat_interleave(count), classes).double()
    offset = y.mean(0)
    square = x.mT @ x / len(x)
    penalty = ridge * square.diagonal().mean() * torch.eye(len(mean), dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(square + penalty, x.mT @ (y - offset) / len(x))
    found = ((test_features.double() - mean) @ weight + offset).argmax(-1)
    return (found == test_labels[:, None]).double().mean().item()


@METRICS.register_module()
class ArtifactTokens(BaseMetric):
    """Artefacts an image, and a linear probe of patches, of a network before and after it got registers.

    Samples have ``norms_before``, ``norms_after`` (h, w), ``patches_before``, ``patches_after`` (h * w, C),
    as :class:`~dense.adaptation.PHRegDistiller` predicts them, and for the probe ``gt_label``; it is fitted
    to every other image, and tested on those between.

    Metrics: ``artifacts_before``, ``artifacts_after`` (an image, by the quartiles of each network's own
    norms), ``norm_ratio_before``, ``norm_ratio_after`` (largest to median), ``probe_before``, ``probe_after``
    (top-1 of single patches, in %).
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            keys = [f"{what}_{side}" for side in SIDES for what in ("norms", "patches")]
            found = {key: sample[key].detach().float().cpu() for key in keys}
            self.results.append({**found, "label": sample.get("gt_label")})

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        found = {}
        for side in SIDES:
            norms = torch.cat([result[f"norms_{side}"].flatten() for result in results])
            found[f"artifacts_{side}"] = find_artifacts(norms).sum().item() / len(results)
            found[f"norm_ratio_{side}"] = (norms.max() / norms.median()).item()
        labels = [result["label"] for result in results]
        if len(results) < 2 or any(label is None for label in labels):
            return found
        labels = torch.stack([label.cpu() for label in labels])
        for side in SIDES:
            patches = torch.stack([result[f"patches_{side}"] for result in results])
            parts = patches[::2], labels[::2], patches[1::2], labels[1::2]
            found[f"probe_{side}"] = 100 * probe_patches(*parts)
        return found
