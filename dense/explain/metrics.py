"""How good maps of what counts are: the pointing game, and whether maps depend on the class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor, nn

from ..registry import METRICS
from .explain import Subject, class_scores, explain, undisturbed


@METRICS.register_module()
class PointingGame(BaseMetric):
    """``pointing/accuracy``: how often the maximum of a map lies on an object of the class, in percent.

    A sample has ``pred_map`` (H, W), ``gt_label`` and the boxes ``gt_boxes`` (n, 4) (left, top, right,
    bottom, in pixels of the map, from edge to edge) or a ``gt_mask`` (H, W) of the class. Of equal maxima the
    first counts, so a constant map points at the corner. Accuracy is the mean over classes of
    hits / (hits + misses). Samples whose boxes are all ``difficult`` (n,) are left out.

    Source: Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016.

    Args:
        tolerance: a hit lies less than so many pixels from a pixel of the object; 0 wants it on the object.
            Published: 15, on photographs of VOC and COCO.
        by_class: give ``pointing/accuracy_NAME`` of each class, too.
        **kwargs: of MMEngine's ``BaseMetric``.

    Raises:
        ValueError: a sample without truth, a map that is not finite, a mask of another size.
    """

    default_prefix = "pointing"

    def __init__(self, tolerance: float = 0.0, by_class: bool = False, **kwargs):
        super().__init__(**kwargs)
        if not tolerance >= 0:
            raise ValueError(f"tolerance: found {tolerance}, wanted 0 pixels or more")
        self.tolerance, self.by_class = tolerance, by_class

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            where = sample.get("img_path", f"image {sample.get('index')}")
            found = sample["pred_map"]
            if found.ndim != 2 or not found.isfinite().all():
                raise ValueError(f"{where}: found a map {tuple(found.shape)} or NaN, wanted finite (H, W)")
            difficult = sample.get("difficult")
            if difficult is not None and all(difficult):
                continue
            mask = sample.get("gt_mask")
            if mask is None:
                if sample.get("gt_boxes") is None:
                    raise ValueError(f"{where}: has neither gt_boxes nor gt_mask")
                mask = mask_of_boxes(sample["gt_boxes"], tuple(found.shape))
            if mask.shape != found.shape:
                raise ValueError(f"{where}: found a mask {tuple(mask.shape)}, wanted {tuple(found.shape)}")
            point = divmod(int(found.argmax()), found.shape[1])
            self.results.append((int(sample["gt_label"]), points_at(point, mask, self.tolerance)))

    def compute_metrics(self, results: list[tuple[int, bool]]) -> dict[str, float]:
        label, hit = (np.array(x) for x in zip(*results, strict=True))
        shares = {int(own): float(100 * hit[label == own].mean()) for own in np.unique(label)}
        metrics = {"accuracy": float(np.mean(list(shares.values())))}
        if self.by_class:
            names = (self.dataset_meta or {}).get("classes")
            metrics |= {f"accuracy_{names[i] if names else i}": share for i, share in shares.items()}
        return metrics


def points_at(point: tuple[int, int], mask: Tensor, tolerance: float = 0.0) -> bool:
    """Whether a pixel (row, column) lies on a mask (H, W), or less than ``tolerance`` pixels from it."""
    if not tolerance:
        return bool(mask[point])
    places = mask.nonzero().double()
    here = torch.tensor(point, dtype=places.dtype, device=places.device)
    return len(places) > 0 and bool((places - here).square().sum(1).min().sqrt() < tolerance)


def mask_of_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The pixels (H, W) bool whose centres lie in one of the boxes (n, 4)."""
    y, x = (torch.arange(side, device=boxes.device) + 0.5 for side in size)
    left, top, right, bottom = boxes.T[:, :, None]
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (rows[:, :, None] & columns[:, None]).any(0)


def class_sensitivity(
    network: nn.Module,
    image: Tensor,
    method: str = "norm_grad",
    layer: Any = None,
    *,
    eps: float = 1e-6,
    **options: Any,
) -> Tensor:
    """How alike the maps of the most and the least likely class are, at the size of the image.

    Args:
        network, image, method, layer, **options: of :func:`~dense.explain.explain`.
        eps: added to both maps.

    Returns:
        (B,) rank correlations of Spearman, float64; NaN where a map is constant, as one of Grad-CAM may be.
        The lower, the more a map depends on the class. Take the mean over those that are finite.
    """
    with undisturbed(network), torch.no_grad():
        scores = class_scores(Subject(network, image, 0).logits(image))
    maps = [
        explain(network, image, target, method, layer, **options) + eps
        for target in (scores.argmax(1), scores.argmin(1))
    ]
    return spearman(*(x.flatten(1) for x in maps))


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation of the rows of (B, N) with those of another, ties by their mean rank: (B,) float64.

    NaN where a row is constant.
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"found {tuple(a.shape)} and {tuple(b.shape)}, wanted both (B, N)")
    a, b = (mean_ranks(x) for x in (a, b))
    a, b = a - a.mean(1, True), b - b.mean(1, True)
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()


def mean_ranks(x: Tensor) -> Tensor:
    """Ranks from 1 within the rows of (B, N), equal values the mean of theirs: float64."""
    found = []
    for row in x:
        _, place, count = row.unique(return_inverse=True, return_counts=True)
        last = count.cumsum(0).double()
        found.append((last - (count - 1) / 2)[place])
    return torch.stack(found)
