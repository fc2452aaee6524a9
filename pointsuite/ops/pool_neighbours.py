"""A linear map of neighbours, pooled to their maximum, with the moments that a batch norm needs."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from ..engine.parallel import cache_sized, jit, run_rows
from .gather_points import gather_points


def pool_neighbours(
    x: Tensor, weight: Tensor, values: Tensor | None, idx: Tensor, *, fused: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute h = x W^T + values[idx], and return max over K of h, and mean and variance of h.

    Batch norm and ReLU are monotone, so a convolution with both and a maximum behind it needs no more of
    the widest tensor of a set abstraction layer than this.

    Args:
        x: (B, S, K, E), differentiable.
        weight: (C, E), differentiable.
        values: (B, N, C) of the points, added by `idx`; differentiable. None for nothing.
        idx: (B, S, K) int64 in [0, N).
        fused: on the CPU and outside autocast and torch.compile, hold h (B, S, K, C) for a few clouds at
            a time, in the forward pass and again in the backward pass, and never keep it.

    Returns:
        (B, S, C); mean (C,) and biased variance (C,) over all B * S * K rows. Where several neighbours
        share a maximum, the fused form sends its gradient to the first, the plain one to all alike.
    """
    plain = x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    if plain or not fused:
        hidden = linear(x, weight)
        if values is not None:
            hidden = hidden + gather_points(values, idx)
        exact = hidden.to(torch.promote_types(hidden.dtype, torch.float32))  # moments do not survive 16 bits
        variance, mean = torch.var_mean(exact, (0, 1, 2), correction=0)
        return hidden.amax(2), mean, variance
    if values is None:
        values, idx = x.new_zeros(len(x), 1, len(weight)), torch.zeros_like(idx)
    return _PoolNeighbours.apply(x, weight, values, idx)


class _PoolNeighbours(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, values, idx):
        x, values, idx = x.contiguous(), values.contiguous(), idx.contiguous()
        batch, size, k, _ = x.shape
        top, total, square = (x.new_empty(batch, size, len(weight)) for _ in range(3))
        slot = torch.empty(batch, size, len(weight), dtype=torch.int32)
        # Sums of differences from one typical row: their squares do not cancel.
        pivot = weight @ x[0, 0, 0] + values[0, idx[0, 0, 0]]
        for part in cache_sized(x, size * k * len(weight)):
            hidden = (x[part] @ weight.T).numpy()
            arrays = (a[part].numpy() for a in (values, idx, top, slot, total, square))
            run_rows(_pool, len(hidden) * size, hidden, pivot.numpy(), *arrays, grain=16)
        count = batch * size * k
        shift = total.sum((0, 1), dtype=torch.float64) / count
        variance = square.sum((0, 1), dtype=torch.float64) / count - shift**2
        mean = pivot + shift.to(x.dtype)
        ctx.save_for_backward(x, weight, values, idx, slot, mean)
        return top, mean, variance.clamp_min_(0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad_top, grad_mean, grad_variance):
        x, weight, values, idx, slot, mean = ctx.saved_tensors
        # d variance / d h = 2 (h - mean) / count: everywhere h's gradient is slope * h + level, and where
        # the maximum was, grad_top more.
        batch, size, k, _ = x.shape
        slope = grad_variance * (2 / (batch * size * k))
        level = grad_mean / (batch * size * k) - slope * mean
        grad_top = grad_top.contiguous()
        grad_x, grad_weight, grad_values = (
            torch.empty_like(x),
            torch.zeros_like(weight),
            torch.zeros_like(values),
        )
        for part in cache_sized(x, size * k * len(weight)):
            hidden = x[part] @ weight.T  # overwritten with its gradient
            arrays = (a.numpy() for a in (slope, level, values[part], idx[part], slot[part], grad_top[part]))
            run_rows(_pool_backward, len(hidden) * size, hidden.numpy(), *arrays, grain=16)
            grad = hidden.flatten(0, 2)
            torch.mm(grad, weight, out=grad_x[part].flatten(0, 2))
            grad_weight.addmm_(grad.T, x[part].flatten(0, 2))
            for b, rows in zip(range(batch)[part], hidden, strict=True):
                grad_values[b].index_add_(0, idx[b].flatten(), rows.flatten(0, 1))
        return grad_x, grad_weight, grad_values, None


@jit
def _pool(hidden, pivot, values, idx, top, slot, total, square, start, stop):
    """Rows [start, stop) of the flattened (clouds * S) centres."""
    size, count, channels = hidden.shape[1:]
    for r in range(start, stop):
        b, s = r // size, r % size
        best, where, first, second = top[b, s], slot[b, s], total[b, s], square[b, s]
        best[:] = -np.inf
        where[:] = 0
        first[:] = 0
        second[:] = 0
        for k in range(count):
            row, value = hidden[b, s, k], values[b, idx[b, s, k]]
            for c in range(channels):
                h = row[c] + value[c]
                where[c] = k if h > best[c] else where[c]
                best[c] = h if h > best[c] else best[c]
                d = h - pivot[c]
                first[c] += d
                second[c] += d * d


@jit
def _pool_backward(hidden, slope, level, values, idx, slot, grad_top, start, stop):
    """Replace h by its gradient."""
    size, count, channels = hidden.shape[1:]
    for r in range(start, stop):
        b, s = r // size, r % size
        where, peak = slot[b, s], grad_top[b, s]
        for k in range(count):
            row, value = hidden[b, s, k], values[b, idx[b, s, k]]
            for c in range(channels):
                more = peak[c] if where[c] == k else peak[c] * 0
                row[c] = slope[c] * (row[c] + value[c]) + level[c] + more
