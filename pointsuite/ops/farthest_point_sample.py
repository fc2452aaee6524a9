"""Farthest point sampling: each new point is the one farthest from all chosen before it."""

import numpy as np
import torch
from torch import Tensor

from ..engine.backends import choose_backend
from ..engine.parallel import jit, run_rows
from ._checks import check_cloud, check_counts, check_finite, check_valid
from ._tree import box_distance, build_tree


def farthest_point_sample(
    points: Tensor,
    num_samples: int,
    *,
    start: int | Tensor = 0,
    valid: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Choose `num_samples` points of each cloud, spread as widely as a greedy choice can.

    Args:
        points: (B, N, 3) float32 or float64.
        num_samples: S, 1 <= S <= the fewest points of a cloud.
        start: index of the first choice: one for all clouds, or (B,) int64.
        valid: optional (B,) int64, how many leading points of each cloud are real; the rest is padding.
        backend: "auto", "torch" (portable), "numba" (CPU) or "triton" (CUDA).

    Returns:
        idx (B, S) int64, the start first. The first m of S choices are the choice of m: a nested
        sampling needs one call. Ties go to the lowest index; where all that is left coincides with
        chosen points, the lowest index repeats. No gradient.

    Raises:
        ValueError: wrong shape, num_samples or start out of range, NaN or infinity.
        TypeError: a dtype other than float32 and float64.

    Source: Eldar et al., "The farthest point strategy for progressive image sampling", 1997, in the
    form of PointNet++ (Qi et al., 2017).
    """
    check_cloud("points", points)
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, found {num_samples}")
    if not isinstance(start, Tensor):
        start = points.new_full(points.shape[:1], start, dtype=torch.int64)
    if start.dtype != torch.int64 or start.shape != points.shape[:1] or start.device != points.device:
        raise ValueError(
            f"start must be an int or an int64 tensor of shape ({points.shape[0]},) on {points.device}, "
            f"found {start.dtype} {tuple(start.shape)} on {start.device}"
        )
    backend = choose_backend(backend, points, numba=True, triton=True)
    return _fps(points.detach(), num_samples, start, check_valid(valid, points), backend)


@torch.library.custom_op("pointsuite::farthest_point_sample", mutates_args=())
def _fps(points: Tensor, num_samples: int, start: Tensor, valid: Tensor | None, backend: str) -> Tensor:
    check_finite("points", points)
    check_counts(valid, points, num_samples, "num_samples")
    counts = torch.full_like(start, points.shape[1]) if valid is None else valid
    if not all(0 <= s < n for s, n in zip(start.tolist(), counts.tolist(), strict=True)):
        raise ValueError(
            "start must be the index of a point of its cloud, "
            f"found {start.tolist()} for {counts.tolist()} points"
        )
    points = points.contiguous()
    if backend == "triton":
        from .triton.farthest_point_sample import farthest_point_sample as fps_triton

        return fps_triton(points, num_samples, start, valid)
    if backend == "torch":
        return _fps_torch(points, num_samples, start, counts)
    idx = torch.empty(len(points), num_samples, dtype=torch.int64)
    arrays = (counts.numpy(), start.numpy(), idx.numpy())
    if points.shape[1] > TREE_POINTS and num_samples > TREE_SAMPLES:
        tree = build_tree(points.numpy(), arrays[0], LEAF)
        run_rows(_sample_tree, len(points), *tree, points.numpy(), *arrays)
    else:
        run_rows(_sample, len(points), points.transpose(1, 2).contiguous().numpy(), *arrays)
    return idx


@_fps.register_fake
def _(points, num_samples, start, valid, backend):
    return points.new_empty((points.shape[0], num_samples), dtype=torch.int64)


def _fps_torch(points: Tensor, num_samples: int, start: Tensor, counts: Tensor) -> Tensor:
    """The portable form, of points (B, N, D) of any width."""
    rows = torch.arange(len(points), device=points.device)
    real = torch.arange(points.shape[1], device=points.device) < counts[:, None]
    nearest = torch.where(real, torch.inf, -torch.inf).to(points.dtype)  # squared distance to the chosen
    current, chosen = start, [start]
    for _ in range(num_samples - 1):
        offset = points - points[rows, current][:, None]
        if offset.shape[-1] == 3:
            x, y, z = offset.unbind(-1)
            sqdist = x * x + y * y + z * z
        else:
            sqdist = offset.square().sum(-1)
        nearest = torch.minimum(nearest, sqdist)
        current = (nearest == nearest.amax(1, keepdim=True)).to(torch.uint8).argmax(1)  # the first maximum
        chosen.append(current)
    return torch.stack(chosen, 1)


# Below these sizes building a tree costs more than it saves (benchmarks/points.py).
TREE_POINTS, TREE_SAMPLES = 384, 96
LEAF = 32
BLOCK = 64


@jit
def _sample(columns, counts, starts, idx, start, stop):
    """Clouds [start, stop). One pass a choice; maxima kept by blocks, so that only one block is searched."""
    nothing = columns.dtype.type(-1)
    for b in range(start, stop):
        n = counts[b]
        xs, ys, zs = columns[b, 0], columns[b, 1], columns[b, 2]
        nearest = np.full(n, np.inf, columns.dtype)
        current = starts[b]
        idx[b, 0] = current
        for s in range(1, idx.shape[1]):
            px, py, pz = xs[current], ys[current], zs[current]
            farthest, block = nothing, 0
            for first in range(0, n, BLOCK):
                top = nothing
                for j in range(first, min(first + BLOCK, n)):
                    x, y, z = xs[j] - px, ys[j] - py, zs[j] - pz
                    d = x * x + y * y + z * z
                    d = d if d < nearest[j] else nearest[j]
                    nearest[j] = d
                    top = d if d > top else top
                if top > farthest:
                    farthest, block = top, first
            current = block
            while nearest[current] != farthest:
                current += 1
            idx[b, s] = current


@jit
def _sample_tree(columns, order, boxes, points, counts, starts, idx, start, stop):
    """Clouds [start, stop). A choice changes only boxes that are nearer to it than their farthest point.

    Each node keeps the largest distance to the chosen among its points, and the lowest index there.
    """
    leaves = boxes.shape[1] // 2
    farthest, where = np.empty(2 * leaves, columns.dtype), np.empty(2 * leaves, np.int64)
    touched = np.empty(2 * leaves, np.int64)
    for b in range(start, stop):
        n, box = counts[b], boxes[b]
        xs, ys, zs, names = columns[b, 0], columns[b, 1], columns[b, 2], order[b]
        nearest = np.full(n, np.inf, columns.dtype)
        farthest[:] = np.inf
        current = starts[b]
        idx[b, 0] = current
        for s in range(1, idx.shape[1]):
            px, py, pz = points[b, current, 0], points[b, current, 1], points[b, current, 2]
            touched[0] = 1
            place, count = 0, 1
            while place < count:
                node = touched[place]
                place += 1
                if node < leaves:
                    for child in range(2 * node, 2 * node + 2):
                        if box_distance(box[child], px, py, pz) < farthest[child]:
                            touched[count] = child
                            count += 1
                    continue
                j = node - leaves
                first, last = n * j // leaves, n * (j + 1) // leaves
                top = columns.dtype.type(-1)
                for i in range(first, last):
                    x, y, z = xs[i] - px, ys[i] - py, zs[i] - pz
                    d = x * x + y * y + z * z
                    d = d if d < nearest[i] else nearest[i]
                    nearest[i] = d
                    top = d if d > top else top
                lowest = n
                for i in range(first, last):
                    lowest = min(lowest, names[i] if nearest[i] == top else n)
                farthest[node], where[node] = top, lowest
            for place in range(count - 1, -1, -1):  # children before parents
                node = touched[place]
                if node < leaves:
                    a, c = 2 * node, 2 * node + 1
                    if farthest[c] > farthest[a] or (farthest[c] == farthest[a] and where[c] < where[a]):
                        a = c
                    farthest[node], where[node] = farthest[a], where[a]
            current = where[1]
            idx[b, s] = current
