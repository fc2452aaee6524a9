"""``torch.ops.pyg``'s operators on points: examples are given by bounds, (B + 1,) int64, or None for one."""

import numba
import numpy as np
import torch
from torch import Tensor

from ..ops import graph


def knn(
    x: Tensor, y: Tensor, ptr_x: Tensor | None, ptr_y: Tensor | None, k: int, cosine: bool, num_workers: int
) -> Tensor:
    """Edges (2, E) int64, in y and in x, as :func:`pointsuite.ops.graph.knn`."""
    return graph.knn(x, y, k, _batch("ptr_x", ptr_x, x), _batch("ptr_y", ptr_y, y), cosine)


def radius(
    x: Tensor,
    y: Tensor,
    ptr_x: Tensor | None,
    ptr_y: Tensor | None,
    r: float,
    max_num_neighbors: int | None,
    num_workers: int,
    ignore_same_index: bool,
) -> Tensor:
    """Edges (2, E) int64, in y and in x, as :func:`pointsuite.ops.graph.radius`."""
    batches = _batch("ptr_x", ptr_x, x), _batch("ptr_y", ptr_y, y)
    return graph.radius(x, y, r, *batches, max_num_neighbors, ignore_same_index=ignore_same_index)


def fps(x: Tensor, ptr: Tensor | None, ratio: float, random_start: bool) -> Tensor:
    """Indices (M,) int64 into x, as :func:`pointsuite.ops.graph.fps`."""
    return graph.fps(x, None, ratio, random_start, ptr=ptr)


def nearest(x: Tensor, y: Tensor, ptr_x: Tensor | None, ptr_y: Tensor | None) -> Tensor:
    """Indices (N,) int64 into y, as :func:`pointsuite.ops.graph.nearest`."""
    return graph.nearest(x, y, _batch("ptr_x", ptr_x, x), _batch("ptr_y", ptr_y, y))


def grid_cluster(x: Tensor, size: Tensor, start: Tensor | None, end: Tensor | None) -> Tensor:
    """Number of the voxel in which each point lies, (N,) int64; the first dimension runs fastest.

    Args:
        x: (N, D) points.
        size: (D,) sides of a voxel.
        start: (D,) corner at which the grid begins; the least coordinates by default.
        end: (D,) to which it reaches at least; the largest coordinates by default. Points outside have
            voxels of their own, for which the grid grows.

    Raises:
        ValueError: a side that is not positive, or points that are not finite.
    """
    if not bool((size > 0).all()):
        raise ValueError(f"size must be positive in every dimension, found {size.tolist()}")
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).any(-1).nonzero()[0])
        raise ValueError(f"x must be finite, found {x[bad].tolist()} at point {bad}")
    if not len(x):
        return x.new_empty(0, dtype=torch.int64)
    start = x.amin(0) if start is None else start
    end = x.amax(0) if end is None else end
    cell = ((x - start) / size).floor().long()
    low = cell.amin(0).clamp(max=0)
    high = torch.maximum(cell.amax(0), ((end - start) / size).floor().long())
    count = high - low + 1
    stride = torch.cat([count.new_ones(1), count.cumprod(0)[:-1]])
    return ((cell - low) * stride).sum(-1)


def graclus_cluster(rowptr: Tensor, col: Tensor, weight: Tensor | None) -> Tensor:
    """Pair neighbours greedily: nodes in random order, each with its heaviest neighbour that is still alone.

    Args:
        rowptr: (N + 1,) int64, where the edges of each node begin.
        col: (E,) int64, their ends; a loop pairs nothing.
        weight: (E,) of the edges; without, a random neighbour is taken.

    Returns:
        (N,) int64, the smaller number of each node's pair.

    Source: Dhillon, Guan and Kulis, "Weighted Graph Cuts without Eigenvectors", TPAMI 2007.
    """
    if rowptr.ndim != 1 or not len(rowptr) or int(rowptr[-1]) != len(col):
        raise ValueError(f"rowptr must end with {len(col)} edges, found {rowptr.tolist()[-20:]}")
    if len(col) and not 0 <= int(col.min()) <= int(col.max()) < len(rowptr) - 1:
        found = f"{int(col.min())} to {int(col.max())}"
        raise ValueError(f"col must be nodes from 0 to {len(rowptr) - 2}, found {found}")
    if weight is not None and (weight.shape != col.shape or not bool(torch.isfinite(weight).all())):
        raise ValueError(f"weight must be {len(col)} finite numbers, found {tuple(weight.shape)}")
    order = torch.randperm(len(rowptr) - 1)
    weight = torch.rand(len(col)) if weight is None else weight.detach().double().cpu()
    pairs = _pair(*(x.cpu().numpy() for x in (rowptr, col, weight, order)))
    return torch.from_numpy(pairs).to(rowptr.device)


@numba.njit(cache=True)
def _pair(rowptr, col, weight, order):
    pairs = np.full(len(order), -1)
    for node in order:
        if pairs[node] >= 0:
            continue
        best = node
        most = -np.inf
        for edge in range(rowptr[node], rowptr[node + 1]):
            if col[edge] != node and pairs[col[edge]] < 0 and weight[edge] > most:
                best, most = col[edge], weight[edge]
        pairs[node] = pairs[best] = min(node, best)
    return pairs


def _batch(name: str, ptr: Tensor | None, x: Tensor) -> Tensor | None:
    if ptr is None:
        return None
    counts = ptr.diff()
    if ptr.ndim != 1 or int(counts.sum()) != len(x) or bool((counts < 0).any()):
        raise ValueError(f"{name} must ascend from 0 to {len(x)} points, found {ptr.tolist()[:20]}")
    return torch.arange(len(counts), device=x.device).repeat_interleave(counts)
