"""What networks of dense matching share: correlations, their tokens, the flow in them, and which to trust.

Positions are by row of the map: N = H * W. A correlation (B, N_s, N_t) has a row for each position of the
source and a column for each of the target; a flow is on the target's grid and points to the source.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops.flow import grid_positions, resize_flow, sample_at, soft_argmax

BETA = 0.02  # temperature of the read-out, of CATs


def correlate(source: Tensor, target: Tensor, *, smooth: bool = False) -> Tensor:
    """Cosines of features (B, N_s, C) and (B, N_t, C): (B, N_s, N_t).

    Args:
        smooth: add 1e-6 to the squared length, as CATs does; else lengths below 1e-6 count as that.
    """
    if smooth:
        source, target = (x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for x in (source, target))
    else:
        source, target = normalize(source), normalize(target)
    return source @ target.mT


def normalize(features: Tensor) -> Tensor:
    """Features (..., C) of length 1."""
    return F.normalize(features, dim=-1, eps=1e-6)


def mutual_filter(correlation: Tensor) -> Tensor:
    """Weaken what is not the best of both its row and its column: (..., N_s, N_t) to the same.

    A best that is negative is not treated apart, as in the published code.

    Source: Rocco et al., "Neighbourhood Consensus Networks", NeurIPS 2018; in the form of CATs.
    """
    best_target, best_source = (correlation.amax(dim, keepdim=True) for dim in (-1, -2))
    ratios = (
        correlation / torch.where(best == 0, torch.full_like(best, 1e-30), best)
        for best in (best_target, best_source)
    )
    return correlation * (next(ratios) * next(ratios))


def pool_rows(features: Tensor, size: tuple[int, int], tokens: int) -> Tensor:
    """Means of features (B, H * W, C) over ``tokens`` x ``tokens`` parts of the map: (B, tokens^2, C).

    A pooled correlation is the correlation with pooled features, both being linear: the correlation itself
    is never needed.
    """
    maps = features.mT.unflatten(2, size)  # (B, C, H, W)
    return F.adaptive_avg_pool2d(maps, tokens).flatten(2).mT


def upsample_rows(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """Each row (B, R, m * m) as a map (m, m), bilinearly of another size: (B, R, H * W)."""
    side = round(rows.shape[-1] ** 0.5)
    maps = rows.unflatten(-1, (side, side))
    return F.interpolate(maps, size, mode="bilinear", align_corners=False).flatten(2)


def read_flow(
    scores: Tensor,
    size: tuple[int, int],
    rows: slice = slice(None),
    *,
    beta: float = BETA,
    axes: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Flow of positions by their scores with all positions of the other image, on a grid of equal size.

    Args:
        scores: (B, R, H * W), a row for each position that flows.
        size: H, W, of both grids.
        rows: which positions the rows are, by default all.
        beta: temperature of the softmax.
        axes: coordinates of the columns (W,) and rows (H,) of the grid, by default even from -1 to 1.

    Returns:
        (B, R, 2), x and y in cells.
    """
    if axes is None:
        axes = tuple(torch.linspace(-1, 1, n).to(scores) for n in reversed(size))
    mean = soft_argmax(scores, axes, beta)
    cells = (mean + 1) * (mean.new_tensor([size[1] - 1, size[0] - 1]) / 2)
    return cells - grid_positions(size, mean).flatten(1).T[rows]


def select_flows(
    flows: Sequence[Tensor], backward: Sequence[Tensor], inside: Sequence[Tensor | None] | None = None
) -> tuple[Tensor, Tensor]:
    """Of several flows, at each position that which the flow back confirms best.

    At p + f(p) the flow back b should be -f(p): the confidence is exp(-|f(p) + b(p + f(p))| / (0.05 G)), G
    the longer side of the finest grid, and 0 where p + f(p) is not in the image. Of equals the first wins.

    Args:
        flows: (B, 2, h, w) each, of the target's grid to the source, the finest last.
        backward: as many, of the source's grid to the target.
        inside: for each None or bool (H, W): where on the finest grid it counts, with confidence 0 elsewhere.

    Returns:
        The flow (B, 2, H, W) on the finest grid, and all the confidences (B, len(flows), H, W).
    """
    size = tuple(flows[-1].shape[2:])
    flows = [resize_flow(flow, size) for flow in flows]
    own = grid_positions(size, flows[0])
    last = own[:, -1:, -1:]
    confidences = []
    for i, (flow, back) in enumerate(zip(flows, backward, strict=True)):
        reached = own + flow
        error = (flow + sample_at(resize_flow(back, size), reached)).norm(dim=1)  # (B, H, W)
        counts = ((reached >= 0) & (reached <= last)).all(1)
        if inside is not None and inside[i] is not None:
            counts = counts & inside[i]
        confidences.append(torch.where(counts, torch.exp(error / (-0.05 * max(size))), 0))
    confidences = torch.stack(confidences, 1)
    best = confidences.argmax(1)[:, None, None].expand(-1, -1, 2, -1, -1)
    return torch.stack(flows, 1).gather(1, best)[:, 0], confidences
