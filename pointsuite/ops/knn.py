"""Exact k nearest neighbours and ball query over batches of point clouds."""

import math

import numpy as np
import torch
from torch import Tensor

from ..engine.parallel import jit, run_rows
from ._checks import (
    check_cloud,
    check_counts,
    check_finite,
    check_same,
    check_valid,
    choose_neighbour_backend,
)
from ._tree import box_distance, build_tree

# A scan of all points wins over building and walking a tree for clouds up to this size, or for this few
# queries (benchmarks/points.py).
TREE_POINTS, TREE_QUERIES = 192, 96
LEAF = 16


def knn(
    query: Tensor,
    points: Tensor,
    k: int,
    *,
    valid: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Find the `k` nearest points of each query, exactly.

    Args:
        query: (B, S, 3) float32 or float64.
        points: (B, N, 3), same dtype and device.
        k: neighbours a query, 1 <= k <= the fewest points of a cloud.
        valid: optional (B,) int64, how many leading points of each cloud are real; the rest is padding.
        backend: "auto", "torch" (portable), "numba" (CPU) or "triton" (CUDA).

    Returns:
        idx (B, S, k) int64 and squared distances (B, S, k) in the dtype of `points`, ascending by
        (distance, index): ties go to the lowest index. A query that is itself among the points is its
        own first neighbour. Distances are (dx*dx + dy*dy) + dz*dz, never the expanded form, so they are
        not negative. No gradient.

    Raises:
        ValueError: wrong shape, k out of range, too few points, NaN or infinity, mixed devices.
        TypeError: dtypes other than float32 and float64, or mixed ones.
    """
    check_cloud("query", query)
    check_cloud("points", points)
    check_same("query", query, "points", points)
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}")
    backend = choose_neighbour_backend(backend, points, k)
    return _knn(query.detach(), points.detach(), k, check_valid(valid, points), k, math.inf, backend)


@torch.library.custom_op("pointsuite::knn", mutates_args=())
def _knn(
    query: Tensor, points: Tensor, k: int, valid: Tensor | None, fewest: int, radius: float, backend: str
) -> tuple[Tensor, Tensor]:
    """
    Args:
        fewest: points that every cloud must hold. Where one has fewer than k, spare slots are far.
        radius: neighbours beyond it may be missing, and their slots be far.
    """
    check_finite("query", query)
    check_finite("points", points)
    check_counts(valid, points, fewest, "k")
    query, points = query.contiguous(), points.contiguous()
    if backend == "triton":
        from .triton.knn import knn as knn_triton

        return knn_triton(query, points, k, valid)
    if backend == "torch":
        return _knn_torch(query, points, k, valid)
    return _knn_cpu(query, points, k, valid, radius)


@_knn.register_fake
def _(query, points, k, valid, fewest, radius, backend):
    shape = (query.shape[0], query.shape[1], k)
    return query.new_empty(shape, dtype=torch.int64), query.new_empty(shape)


def _knn_torch(query: Tensor, points: Tensor, k: int, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """The portable form, a block of queries at a time: at most about 2**22 distances at once."""
    idx, sqdist = [], []
    real = None if valid is None else torch.arange(points.shape[1], device=points.device) < valid[:, None]
    for block in query.split(max(1, 2**22 // (points.shape[0] * points.shape[1])), dim=1):
        x, y, z = (block[:, :, None] - points[:, None]).unbind(-1)  # (B, s, N)
        distance = x * x + y * y + z * z
        if real is not None:
            distance = distance.masked_fill(~real[:, None], torch.inf)
        value, index = distance.sort(dim=-1, stable=True)
        idx.append(index[..., :k])
        sqdist.append(value[..., :k])
    return torch.cat(idx, 1), torch.cat(sqdist, 1)


def _knn_cpu(
    query: Tensor, points: Tensor, k: int, valid: Tensor | None, radius: float
) -> tuple[Tensor, Tensor]:
    batch, size = query.shape[:2]
    idx = torch.empty(batch, size, k, dtype=torch.int64)
    sqdist = torch.empty(batch, size, k, dtype=points.dtype)
    counts = np.full(batch, points.shape[1]) if valid is None else valid.numpy()
    arrays = (query.numpy(), counts, idx.numpy(), sqdist.numpy())
    if points.shape[1] <= TREE_POINTS or size <= TREE_QUERIES:
        columns = points.transpose(1, 2).contiguous().numpy()  # (B, 3, N): the distance loop vectorises
        run_rows(_scan, batch * size, columns, *arrays, grain=32)
        return idx, sqdist
    tree = build_tree(points.numpy(), counts, LEAF)
    # Queries take their turn in a tree's order: the next one finds the same boxes and points in the cache.
    same = query.data_ptr() == points.data_ptr() and query.shape == points.shape and valid is None
    turns = tree.order if same else build_tree(query.numpy(), np.full(batch, size), LEAF).order
    dtype = sqdist.numpy().dtype.type
    limit = np.nextafter(dtype(radius * radius), dtype(np.inf))  # a point at the radius belongs
    run_rows(_walk, batch * size, *tree, turns, *arrays, limit, grain=32)
    return idx, sqdist


@jit
def _scan(columns, query, counts, idx, sqdist, start, stop):
    """Rows [start, stop) of the flattened (B * S) queries: all distances, then a sorted list of the best."""
    size, k = idx.shape[1], idx.shape[2]
    distance = np.empty(columns.shape[2], columns.dtype)
    for row in range(start, stop):
        b, s = row // size, row % size
        n = counts[b]
        qx, qy, qz = query[b, s, 0], query[b, s, 1], query[b, s, 2]
        xs, ys, zs = columns[b, 0], columns[b, 1], columns[b, 2]
        for j in range(n):
            x, y, z = qx - xs[j], qy - ys[j], qz - zs[j]
            distance[j] = x * x + y * y + z * z
        best, where = sqdist[b, s], idx[b, s]
        best[:] = np.inf
        where[:] = 0
        for j in range(n):
            d = distance[j]
            if d >= best[k - 1]:
                continue
            slot = min(j, k - 1)
            while slot > 0 and best[slot - 1] > d:  # strict: a tie stays behind the lower index
                best[slot] = best[slot - 1]
                where[slot] = where[slot - 1]
                slot -= 1
            best[slot] = d
            where[slot] = j


@jit
def _walk(columns, order, boxes, turns, query, counts, idx, sqdist, limit, start, stop):
    """Turns [start, stop) of the (B * S) queries: down to the nearest leaf, then to all that may be nearer.

    A leaf names its points in no order, so candidates are compared by (distance, index), and a box at
    exactly the distance of the k-th best is entered: its points may have lower indices. Nothing at `limit`
    or farther is looked for.
    """
    size, k = idx.shape[1], idx.shape[2]
    leaves = boxes.shape[1] // 2
    nodes, bounds = np.empty(64, np.int64), np.empty(64, columns.dtype)  # one entry a level at most
    distance = np.empty(LEAF, columns.dtype)
    for row in range(start, stop):
        b = row // size
        s = turns[b, row % size]
        n, box = counts[b], boxes[b]
        qx, qy, qz = query[b, s, 0], query[b, s, 1], query[b, s, 2]
        xs, ys, zs = columns[b, 0], columns[b, 1], columns[b, 2]
        best, where = sqdist[b, s], idx[b, s]
        best[:] = np.inf
        where[:] = 0
        worst = limit
        top, node = 0, 1
        while True:
            while node < leaves:
                near, far = 2 * node, 2 * node + 1
                d, e = box_distance(box[near], qx, qy, qz), box_distance(box[far], qx, qy, qz)
                if e < d:
                    near, far, e = far, near, d
                if e <= worst:
                    nodes[top], bounds[top] = far, e
                    top += 1
                node = near
            j = node - leaves
            first, last = n * j // leaves, n * (j + 1) // leaves
            for i in range(first, last):
                x, y, z = qx - xs[i], qy - ys[i], qz - zs[i]
                distance[i - first] = x * x + y * y + z * z
            for i in range(first, last):
                d = distance[i - first]
                if d > worst:
                    continue
                index = order[b, i]
                if d == worst and index >= where[k - 1]:
                    continue
                slot = k - 1
                while slot > 0 and (best[slot - 1] > d or (best[slot - 1] == d and where[slot - 1] > index)):
                    best[slot], where[slot] = best[slot - 1], where[slot - 1]
                    slot -= 1
                best[slot], where[slot] = d, index
                worst = min(best[k - 1], limit)
            while top > 0 and bounds[top - 1] > worst:
                top -= 1
            if top == 0:
                break
            top -= 1
            node = nodes[top]


def ball_query(
    query: Tensor,
    points: Tensor,
    radius: float,
    k: int,
    *,
    valid: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Find up to `k` points within `radius` of each query, the nearest first.

    Args:
        query, points, valid, backend: as for :func:`knn`.
        radius: in the unit of the coordinates, inclusive: a point at exactly this distance belongs.
        k: most neighbours a query; more than there are points is allowed.

    Returns:
        idx (B, S, k) int64 and count (B, S) int64. Slots past the count repeat the nearest neighbour, as
        PointNet++ does; an empty ball has count 0 and every index -1. No gradient.

    Raises:
        ValueError: as :func:`knn`, and a radius that is not positive and finite.
    """
    check_cloud("query", query)
    check_cloud("points", points)
    check_same("query", query, "points", points)
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}")
    if not 0 < radius < float("inf"):
        raise ValueError(f"radius must be positive and finite, found {radius}")
    found = min(k, points.shape[1])
    backend = choose_neighbour_backend(backend, points, found)
    valid = check_valid(valid, points)
    idx, sqdist = _knn(query.detach(), points.detach(), found, valid, 1, radius, backend)
    inside = sqdist <= radius * radius
    count = inside.sum(-1)
    idx = torch.where(inside, idx, idx[..., :1])
    idx = torch.where(count[..., None] > 0, idx, -1)
    return torch.cat([idx, idx[..., :1].expand(-1, -1, k - found)], -1), count
