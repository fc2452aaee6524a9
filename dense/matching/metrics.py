"""From keypoints to a target flow, from a flow to keypoints, and how good they are.

The protocol of CATs (Cho et al., NeurIPS 2021), which others share: all numbers are of images resized to one
side, ``size``, without keeping the aspect; flows live on the target's grid of g x g cells, point to the
source, and are in cells.
"""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor
from torch.nn.functional import grid_sample

from ..registry import METRICS

BASES = ("pair", "largest_coordinate")  # of PCK


def keypoint_flow(
    source_points: Tensor, target_points: Tensor, grid: int, size: int = 256, box: int = 35
) -> Tensor:
    """The sparse flow that keypoints ask for.

    A cell takes all target keypoints within a box around its middle, edges included. It asks for the flow
    from their mean to the last one's source keypoint; cells without any for exactly 0, which
    :func:`end_point_error` leaves out.

    Args:
        source_points, target_points: (n, 2), x, y in pixels.
        grid: cells to a side.
        size: pixels to a side of the images.
        box: pixels to a side of a cell's box.

    Returns:
        float32 (2, grid, grid), x and y, in cells.
    """
    if source_points.shape != target_points.shape or source_points.shape[1:] != (2,):
        raise ValueError(
            f"keypoints must be (n, 2) twice, found {tuple(source_points.shape)} and "
            f"{tuple(target_points.shape)}"
        )
    step = size // grid
    if not len(target_points):
        return target_points.new_zeros(2, grid, grid)
    ticks = torch.arange(grid, device=target_points.device) * step + step // 2
    near = (target_points - ticks[:, None, None]).abs() <= box // 2  # (g, n, 2): columns by x, rows by y
    inside = near[None, :, :, 0] & near[:, None, :, 1]  # (g, g, n): rows, columns, points
    count = inside.sum(-1, keepdim=True)
    mean = inside.to(target_points.dtype) @ target_points / count.clamp(min=1)
    order = torch.arange(1, inside.shape[-1] + 1, device=inside.device)
    last = (inside * order).argmax(-1)
    return ((source_points[last] - mean) * (count > 0) / step).permute(2, 0, 1).float()


def end_point_error(flow: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean distance of two flows (B, 2, g, g) over the valid cells of all of them; 0 if there are none.

    Args:
        valid: bool (B, g, g), by default where the target is not (0, 0).
    """
    if valid is None:
        valid = (target != 0).any(1)
    difference = (flow - target).movedim(1, -1)[valid]
    # of the squares, for the gradient of a distance of 0 is not a number
    squares = difference.square().sum(-1)
    distance = torch.where(squares > 0, squares.clamp(min=1e-30).sqrt(), 0 * squares)
    return distance.sum() / max(len(distance), 1)


def transfer_keypoints(flow: Tensor, points: Tensor, size: int, whole: bool = False) -> Tensor:
    """Where target points are in the source, by a flow that is bilinear between the middles of cells.

    Args:
        flow: (2, g, g), in cells.
        points: (n, 2), x, y in pixels of images of size x size.
        whole: as published benchmarks do, take the pixels that hold the points, clamped to the image.

    Returns:
        (n, 2), x, y in pixels.
    """
    if whole:
        points = points.trunc().clamp(0, size - 1)
    where = ((2 * points + 1) / size - 1).to(flow.dtype)
    moved = grid_sample(flow[None], where[None, None], padding_mode="border", align_corners=False)
    return points + moved[0, :, 0].T * (size / flow.shape[-1])


def keypoint_accuracy(found: Tensor, wanted: Tensor, threshold: float) -> float:
    """Percentage of points (n, 2) that are no further than a threshold from where they should be."""
    return 100 * ((found - wanted).norm(dim=-1) <= threshold).float().mean().item()


@METRICS.register_module()
class PCK(BaseMetric):
    """``pck/0.1``, ...: percentage of correct keypoints of a pair, in the mean over pairs.

    A keypoint is correct if it is found within alpha times the pair's ``pck_base``, which depends on the
    benchmark, of where it is.

    Args:
        alphas: the thresholds.
        classwise: also ``pck/0.1/CLASS``, in the mean over pairs of the class.
        base: "pair" for ``pck_base``; "largest_coordinate" for what CATs' published code computes for
            PF-WILLOW in its place, the largest x or y of the source's keypoints plus 1: it depends on where
            the object is, is never less, and its percentages are higher.
        **kwargs: of MMEngine's ``BaseMetric``.
    """

    default_prefix = "pck"

    def __init__(
        self,
        alphas: Sequence[float] = (0.05, 0.1, 0.15),
        classwise: bool = False,
        base: str = "pair",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if base not in BASES:
            raise ValueError(f"base must be one of {BASES}, found {base!r}")
        self.base = base
        if not alphas or min(alphas) <= 0:
            raise ValueError(f"alphas must be numbers above 0, found {tuple(alphas)}")
        self.alphas, self.classwise = tuple(alphas), classwise

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            found, wanted = sample["pred_points"], sample["source_points"]
            if not found.isfinite().all():
                raise ValueError(
                    f"{sample.get('target_path')}: a keypoint is found at a place that is not finite"
                )
            base = sample["pck_base"] if self.base == "pair" else wanted.max().item() + 1
            scores = [keypoint_accuracy(found, wanted, alpha * base) for alpha in self.alphas]
            self.results.append((sample.get("category"), scores))

    def compute_metrics(self, results: list[tuple[str | None, list[float]]]) -> dict[str, float]:
        groups = {"": results}
        if self.classwise:
            for name in sorted({name for name, _ in results if name is not None}):
                groups[f"/{name}"] = [result for result in results if result[0] == name]
        return {
            f"{alpha:g}{suffix}": sum(scores[i] for _, scores in group) / len(group)
            for suffix, group in groups.items()
            for i, alpha in enumerate(self.alphas)
        }


@METRICS.register_module()
class FlowError(BaseMetric):
    """Of pairs made by a warp: ``flow/epe``, mean end-point error in pixels, ``flow/3px``, ...: % below that.

    Both are over the valid cells of the predicted flow's grid, in the mean over pairs that have any.

    Args:
        thresholds: in pixels.
        **kwargs: of MMEngine's ``BaseMetric``.
    """

    default_prefix = "flow"

    def __init__(self, thresholds: Sequence[float] = (1, 3, 5), **kwargs):
        super().__init__(**kwargs)
        self.thresholds = tuple(thresholds)

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            flow = sample["pred_flow"].cpu()
            wanted, valid = sample["warp"].flow(flow.shape[-1])
            if valid.any():
                error = (flow - wanted).norm(dim=0)[valid] * (sample["size"] / flow.shape[-1])
                shares = [100 * (error < limit).float().mean().item() for limit in self.thresholds]
                self.results.append((error.mean().item(), *shares))

    def compute_metrics(self, results: list[tuple[float, ...]]) -> dict[str, float]:
        if not results:
            raise ValueError("no pair has a cell that lies inside of both images")
        names = ("epe", *(f"{limit:g}px" for limit in self.thresholds))
        return {
            name: sum(column) / len(results)
            for name, column in zip(names, zip(*results, strict=True), strict=True)
        }
