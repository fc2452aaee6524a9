"""A linear map of neighbours, pooled to their maximum, with the moments that a batch norm needs."""

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from ..engine.backends import fuses_on_cpu
from ..engine.parallel import cache_sized, jit, jit_nan, run_rows
from .gather_points import gather_points

BLOCK = 16  # channels that a thread takes, where it may not share points with another


def pool_neighbours(
    x: Tensor,
    weight: Tensor,
    values: Tensor | None,
    idx: Tensor,
    *,
    moments: bool = True,
    fused: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Compute h = x W^T + values[idx], and return max over K of h, and mean and variance of h.

    Batch norm and ReLU are monotone, so a convolution with both and a maximum behind it needs no more of
    the widest tensor of a set abstraction layer than this.

    Args:
        x: (B, S, K, E), differentiable.
        weight: (C, E), differentiable.
        values: (B, N, C) of the points, added by `idx`; differentiable. None for nothing.
        idx: (B, S, K) int64 in [0, N).
        moments: whether mean and variance are wanted.
        fused: on the CPU and in no autocast, hold h (B, S, K, C) for a few clouds at
            a time, and never keep it; its gradient is not formed at all.

    Returns:
        (B, S, C); mean (C,) and biased variance (C,) over all B * S * K rows, or None and None. Where
        several neighbours share a maximum, the fused form sends its gradient to the first, the plain one to
        all alike.
    """
    if not (fused and fuses_on_cpu(x)):
        hidden = linear(x, weight)
        if values is not None:
            hidden = hidden + gather_points(values, idx)
        if not moments:
            return hidden.amax(2), None, None
        exact = hidden.to(torch.promote_types(hidden.dtype, torch.float32))  # moments do not survive 16 bits
        variance, mean = torch.var_mean(exact, (0, 1, 2), correction=0)
        return hidden.amax(2), mean, variance
    if not moments and not torch.is_grad_enabled():
        return _maximum(x.contiguous(), weight, values, idx.contiguous()), None, None
    top, mean, variance = _PoolNeighbours.apply(x, weight, values, idx)
    return (top, mean, variance) if moments else (top, None, None)


def _maximum(x: Tensor, weight: Tensor, values: Tensor | None, idx: Tensor) -> Tensor:
    batch, size, k, _ = x.shape
    if values is None:
        values, idx = x.new_zeros(batch, 1, len(weight)), torch.zeros_like(idx)
    top, values = x.new_empty(batch, size, len(weight)), values.contiguous()
    for part in cache_sized(x, size * k * len(weight)):
        arrays = (a[part].numpy() for a in (values, idx, top))
        run_rows(_keep_largest, len(x[part]) * size, (x[part] @ weight.T).numpy(), *arrays, grain=16)
    return top


class _PoolNeighbours(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, values, idx):
        x, idx = x.contiguous(), idx.contiguous()
        batch, size, k, _ = x.shape
        with_values = values is not None
        values = values.contiguous() if with_values else x.new_zeros(batch, 1, len(weight))
        idx = idx if with_values else torch.zeros_like(idx)
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
        ctx.with_values = with_values
        return top, mean, variance.clamp_min_(0).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_top, grad_mean, grad_variance):
        """Without h or its gradient, the (B, S, K, C).

        d variance / d h = 2 (h - mean) / count: everywhere h's gradient is slope * h + level, and where the
        maximum was, grad_top more. The first is affine in x and values, so x has the gradient
        x W^T diag(slope) W + (slope values W)[idx] + level W, and the others follow from the sum of x x^T
        and, for each point, from the sum of x over the neighbourhoods that it is in.
        """
        x, weight, values, idx, slot, mean = ctx.saved_tensors
        batch, size, k, width = x.shape
        slope = grad_variance * (2 / (batch * size * k))
        level = grad_mean / (batch * size * k) - slope * mean
        grad_top = grad_top.contiguous()
        steep = slope[:, None] * weight
        square, constant, of_values = weight.T @ steep, level @ weight, values @ steep
        grad_x, grad_weight, grad_values = torch.empty_like(x), weight.new_zeros(weight.shape), None
        gram, total = x.new_zeros(width, width, dtype=torch.float64), x.new_zeros(width, dtype=torch.float64)
        near = torch.zeros_like(of_values)  # sums of x around each point
        times = x.new_zeros(values.shape[:2])  # that it is a neighbour
        for part in cache_sized(x, size * k * width):
            rows = x[part].flatten(0, 2)
            torch.addmm(constant, rows, square, out=grad_x[part].flatten(0, 2))
            gram += rows.T @ rows
            total += rows.sum(0)
            centres = [a[part].numpy() for a in (idx, slot, grad_top, of_values, grad_x)]
            run_rows(_to_neighbours, len(x[part]) * size, weight.numpy(), *centres, grain=16)
            if ctx.with_values:
                points = [a[part].numpy() for a in (x, idx, near, times)]
                run_rows(_around_points, len(x[part]) * -(-width // BLOCK), *points)
        if ctx.with_values:
            grad_values = slope * (near @ weight.T) + times[..., None] * (slope * values + level)
        arrays = (a.numpy() for a in (x, idx, slot, grad_top, grad_weight))
        peaks = grad_values if ctx.with_values else torch.zeros_like(values)
        run_rows(_from_maxima, -(-len(weight) // BLOCK), *arrays, peaks.numpy())
        sums = weight.double() @ gram + (values.double().mT @ near.double()).sum(0)
        grad_weight += (slope[:, None] * sums + torch.outer(level.double(), total)).to(x.dtype)
        return grad_x, grad_weight, grad_values, None


@jit_nan
def _keep_largest(hidden, values, idx, top, start, stop):
    """Rows [start, stop) of the flattened (clouds * S) centres."""
    size, count, channels = hidden.shape[1:]
    for r in range(start, stop):
        b, s = r // size, r % size
        best = top[b, s]
        best[:] = -np.inf
        for k in range(count):
            row, value = hidden[b, s, k], values[b, idx[b, s, k]]
            for c in range(channels):
                h, old = row[c] + value[c], best[c]
                best[c] = old if h <= old or old != old else h


@jit_nan
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
                h, old = row[c] + value[c], best[c]
                keep = h <= old or old != old
                where[c] = where[c] if keep else k
                best[c] = old if keep else h
                d = h - pivot[c]
                first[c] += d
                second[c] += d * d


@jit
def _to_neighbours(weight, idx, slot, grad_top, of_values, grad_x, start, stop):
    """Rows [start, stop) of the flattened (clouds * S) centres: add to x's gradient what no product gives."""
    size, count, width = grad_x.shape[1:]
    for r in range(start, stop):
        b, s = r // size, r % size
        for k in range(count):
            row, more = grad_x[b, s, k], of_values[b, idx[b, s, k]]
            for e in range(width):
                row[e] += more[e]
        for c in range(len(weight)):
            row, more, peak = grad_x[b, s, slot[b, s, c]], weight[c], grad_top[b, s, c]
            for e in range(width):
                row[e] += peak * more[e]


@jit
def _around_points(x, idx, near, times, start, stop):
    """Blocks [start, stop) of the flattened (clouds * channels): sum x around points."""
    size, count, width = x.shape[1:]
    blocks = -(-width // BLOCK)
    for r in range(start, stop):
        b, block = r // blocks, r % blocks
        part = slice(block * BLOCK, min(block * BLOCK + BLOCK, width))
        for s in range(size):
            for k in range(count):
                total, row = near[b, idx[b, s, k], part], x[b, s, k, part]
                for e in range(len(row)):
                    total[e] += row[e]
                if block == 0:
                    times[b, idx[b, s, k]] += 1


@jit
def _from_maxima(x, idx, slot, grad_top, grad_weight, grad_values, start, stop):
    """Blocks [start, stop) of the channels: add the gradients that go through the maxima."""
    batch, size, channels = slot.shape
    for b in range(batch):
        for s in range(size):
            for c in range(start * BLOCK, min(stop * BLOCK, channels)):
                k, peak = slot[b, s, c], grad_top[b, s, c]
                total, row = grad_weight[c], x[b, s, k]
                for e in range(len(row)):
                    total[e] += peak * row[e]
                grad_values[b, idx[b, s, k], c] += peak
