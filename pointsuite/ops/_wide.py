"""Exact nearest neighbours in any number of dimensions: a matrix product proposes, float64 decides.

In float32, of centred and scaled points, |q|^2 + |p|^2 - 2 q.p is off the squared distance by at most
bound * (|q|^2 + |p|^2), as the roundings of its sums say. The k-th smallest upper limit of distances bounds
the k-th distance, and only points whose lower limit is not above it, hardly more than k, are measured.
"""

import math

import numba
import numpy as np
import torch
from torch import Tensor

from ..engine.parallel import jit, run_rows

PRODUCTS = 2**23  # numbers of a block of the matrix product
MEASURED = 2**22  # coordinates that the portable form measures at once
SPARE = 8  # candidates that it takes beyond k, before it looks whether they are enough
TINY = 1e-35  # what products of scaled numbers may lose below float32's range


@torch.library.custom_op("pointsuite::knn_wide", mutates_args=())
def knn_wide(
    query: Tensor, points: Tensor, k: int, valid: Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    """The k nearest points (B, N, D) of each query (B, S, D), both float32 or float64, k <= N.

    Finite numbers only, whose sums and squares are finite, too.

    Args:
        valid: (B,) int64, how many leading points of a cloud are real; spare slots are infinitely far.
        backend: "numba" (CPU) or "torch" (portable).

    Returns:
        idx (B, S, k) int64 and squared distances (B, S, k) float64, ascending by (distance, index).
    """
    query, points = query.contiguous(), points.contiguous()
    batch, size, dims = points.shape
    if valid is None:
        valid = torch.full((batch,), size, device=points.device)
    centre = points.mean(1, keepdim=True)
    same = query.data_ptr() == points.data_ptr() and query.shape == points.shape
    pair = [points - centre] if same else [query - centre, points - centre]
    scale = 2.0 ** -math.frexp(max(largest_of(x) for x in pair))[1]
    # Where PyTorch may multiply float32 in fewer bits (TensorFloat-32, bfloat16), the bound would not hold.
    full = torch.get_float32_matmul_precision() == "highest"
    pair = [x.mul_(scale).to(torch.float32 if full else torch.float64) for x in pair]
    q, p = pair[0], pair[-1]
    bound = (2 * dims + 16) * 2.0**-24
    squares = [torch.linalg.vecdot(x, x) for x in pair]
    of_q, of_p = squares[0], squares[-1]
    idx = torch.empty(*query.shape[:2], k, dtype=torch.int64, device=points.device)
    sqdist = torch.empty(idx.shape, dtype=torch.float64, device=points.device)
    step = max(1, PRODUCTS // (batch * size))
    for first in range(0, query.shape[1], step):
        part = slice(first, first + step)
        with torch.autocast(points.device.type, enabled=False):
            product = q[:, part] @ p.mT  # (B, s, N)
        if backend == "numba":
            arrays = [a.numpy() for a in (query, points, product, of_q, of_p, valid, idx, sqdist)]
            run_rows(_choose, batch * product.shape[1], *arrays, bound, first, grain=16)
        else:
            square = of_q[:, part, None] + of_p[:, None]
            limits = (square - 2 * product, bound * square + TINY)
            idx[:, part], sqdist[:, part] = _choose_torch(query[:, part], points, *limits, k, valid)
    return idx, sqdist


@knn_wide.register_fake
def _(query, points, k, valid, backend):
    shape = (query.shape[0], query.shape[1], k)
    return query.new_empty(shape, dtype=torch.int64), query.new_empty(shape, dtype=torch.float64)


def largest_of(x: Tensor) -> float:
    """The largest magnitude; NaN, if there is one, and 0 of no numbers."""
    if not x.numel():
        return 0.0
    low, high = x.aminmax()  # one pass, and nothing written, which abs would
    return max(-low.item(), high.item()) if low == low else math.nan


def _choose_torch(
    query: Tensor, points: Tensor, distance: Tensor, error: Tensor, k: int, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Of distances (B, s, N) known up to an error: twice as many candidates until no other can be nearer."""
    size = points.shape[1]
    padding = torch.arange(size, device=points.device) >= valid[:, None, None]
    distance = distance.masked_fill(padding, torch.inf)
    most = min(k + SPARE, size)
    while True:
        value, near = distance.topk(most, largest=False)
        limit = (value + error.gather(-1, near)).topk(k, largest=False).values[..., -1]
        rest = value[..., -1]
        if most == size or bool(((rest - error.amax(-1) > limit) | rest.isinf()).all()):
            break
        most = min(2 * most, size)
    near = near.sort(-1).values  # ties go to the lowest index
    batch = torch.arange(len(points), device=points.device)[:, None, None]
    step = max(1, MEASURED // (most * points[:, 0].numel()))
    measured = torch.cat(
        [
            (q[:, :, None].double() - points[batch, n].double()).square().sum(-1)
            for q, n in zip(query.split(step, 1), near.split(step, 1), strict=True)
        ],
        1,
    )
    sqdist, slot = measured.masked_fill(near >= valid[:, None, None], torch.inf).sort(dim=-1, stable=True)
    return near.gather(-1, slot[..., :k]), sqdist[..., :k]


# The one sum of the kernels that may be reordered: in float64 it decides what float32 cannot tell apart.
@numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz", "reassoc", "contract"})
def _measure(q, p):
    total = 0.0
    for d in range(len(q)):
        x = np.float64(q[d]) - np.float64(p[d])
        total += x * x
    return total


@jit
def _choose(query, points, product, of_q, of_p, counts, idx, sqdist, bound, first, start, stop):
    """Rows [start, stop) of the flattened (B * s) queries of a block that begins at `first`.

    The k-th smallest of the runs' least upper limits will do as a bound, and most runs are passed over.
    """
    size, k, most = product.shape[1], idx.shape[2], points.shape[1]
    real = product.dtype.type
    two, bound, tiny, far = real(2), real(bound), real(TINY), real(np.inf)
    lower = np.empty(most, product.dtype)
    lowest = np.empty(most, product.dtype)  # lower limit in a run
    heap = np.empty(k, product.dtype)  # the k smallest of the runs' least upper limits, the largest on top
    near, measured = np.empty(most + 1, np.int64), np.empty(most)
    for row in range(start, stop):
        b, s = row // size, first + row % size
        n, q, square, products, others = counts[b], query[b, s], of_q[b, s], product[b, row % size], of_p[b]
        run = max(1, min(32, n // (3 * k)))  # many more runs than k, or few points could be passed over
        heap[:] = far
        for r in range(-(-n // run)):
            least, value = far, far
            for j in range(r * run, min(r * run + run, n)):
                total = square + others[j]
                distance, error = total - two * products[j], bound * total + tiny
                lower[j] = distance - error
                least = min(least, distance - error)
                value = min(value, distance + error)
            lowest[r] = least
            if value >= heap[0]:
                continue
            hole, child = 0, 1
            while child < k:
                if child + 1 < k and heap[child + 1] > heap[child]:
                    child += 1
                if heap[child] <= value:
                    break
                heap[hole] = heap[child]
                hole, child = child, 2 * child + 1
            heap[hole] = value
        limit, count = heap[0], 0
        for r in range(-(-n // run)):
            if lowest[r] <= limit:
                for j in range(r * run, min(r * run + run, n)):
                    near[count] = j
                    count += lower[j] <= limit
        for i in range(count):
            measured[i] = _measure(q, points[b, near[i]])
        order = np.argsort(measured[:count], kind="mergesort")  # stable: ties go to the lowest index
        idx[b, s], sqdist[b, s] = 0, np.inf
        for i in range(min(k, count)):
            idx[b, s, i], sqdist[b, s, i] = near[order[i]], measured[order[i]]
