"""Offset attention with the linear maps before and behind it, and the moments that a batch norm needs."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

from ..engine.backends import fuses_on_cpu
from ..engine.parallel import cache_sized, jit, run_rows
from .offset_attention import RENORMALISE_EPS, offset_attention, split_projected

ROWS = 512  # whose sums are taken in the type of h, before they are added up in float64


def projected_attention(
    x: Tensor,
    narrow: Tensor,
    wide: Tensor,
    bias: Tensor | None,
    sum_axis: int,
    *,
    moments: bool = False,
    fused: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Compute h = t - A^T v, where queries, keys, v and t are linear in x, and mean and variance of h.

    A is that of :func:`offset_attention`. A linear map behind it, W (x - A^T (V x + b)), is one before it:
    v = W V x + W b and t = W x.

    Args:
        x: (B, S, N, E), differentiable.
        narrow: (2 D, E), weights of queries and keys; differentiable.
        wide: (2 C, E), weights of v and t; differentiable.
        bias: (C,), of v; differentiable. None for nothing.
        sum_axis: -3 or -2, see :func:`offset_attention`.
        moments: whether mean and variance are wanted.
        fused: on the CPU and in no autocast, work on a few clouds at a time, so that what
            lies between the products stays in the cache, with the gradient written out.

    Returns:
        h (B, S, N, C); mean (C,) and biased variance (C,) over all B * S * N rows, or None and None.
    """
    if fused and fuses_on_cpu(x):
        return _ProjectedAttention.apply(x, narrow, wide, bias, sum_axis, moments, torch.is_grad_enabled())
    of_value, of_offset = wide.chunk(2)
    of_value = torch.cat([narrow, of_value])
    if bias is not None:
        bias = pad(bias, (len(narrow), 0))
    h = offset_attention(linear(x, of_offset), linear(x, of_value, bias), sum_axis)
    if not moments:
        return h, None, None
    exact = h.to(torch.promote_types(h.dtype, torch.float32))  # moments do not survive 16 bits
    variance, mean = torch.var_mean(exact, (0, 1, 2), correction=0)
    return h, mean, variance


class _ProjectedAttention(torch.autograd.Function):
    """Notation: P = softmax(q k^T), Z = 1e-9 + the sum of P, A = P / Z, y = A^T v."""

    @staticmethod
    def forward(ctx, x, narrow, wide, bias, sum_axis, moments, differentiable):
        x = x.contiguous()
        channels, places = len(wide) // 2, x.shape[-2]
        weight = torch.cat([narrow, wide])
        of_values, of_offsets = weight[:-channels].T, weight[-channels:].T
        if bias is not None:
            bias = pad(bias, (len(narrow), 0))
        h = x.new_empty(*x.shape[:-1], channels)
        saved, sums = [], []
        for part in cache_sized(x, x[0].numel()):
            rows = x[part].flatten(0, 2)
            projected = rows @ of_values if bias is None else torch.addmm(bias, rows, of_values)
            query, key, value = split_projected(projected.view(-1, places, len(weight) - channels), channels)
            soft = torch.bmm(query, key.mT).softmax(-1).view(*x[part].shape[:-1], places)  # P
            total = soft.sum(sum_axis, keepdim=True).add_(RENORMALISE_EPS)  # Z
            out = h[part].flatten(0, 1)
            torch.mm(rows, of_offsets, out=h[part].flatten(0, 2))
            y = None
            if sum_axis == -3:
                out.baddbmm_((soft / total).flatten(0, 1).mT, value, alpha=-1)
            else:  # the sum over the rows divides the result: the larger matrix is left alone
                y = torch.bmm(soft.flatten(0, 1).mT, value).div_(total.flatten(0, 1).mT)
                out.sub_(y)
            if differentiable:
                saved += [projected, soft, total, y]
            if moments:
                sums.append(_sum_powers(h[part], h[0, 0, 0]))
        mean = variance = None
        if moments:
            first, second = torch.stack(sums).sum(0) / h[..., 0].numel()
            mean, variance = (h[0, 0, 0] + first).to(h.dtype), (second - first**2).clamp_min_(0).to(h.dtype)
        ctx.save_for_backward(x, weight, h if moments else None, mean, *saved)
        ctx.sum_axis, ctx.sizes = sum_axis, (len(narrow), channels)
        return h, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, grad_mean, grad_variance):
        x, weight, h, mean, *saved = ctx.saved_tensors
        (narrow, channels), places = ctx.sizes, x.shape[-2]
        grad = grad.contiguous()
        if h is not None:  # d variance / d h = 2 (h - mean) / count
            slope = grad_variance * (2 / h[..., 0].numel())
            level = grad_mean / h[..., 0].numel() - slope * mean
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
        grad_bias = weight.new_zeros(channels) if ctx.needs_input_grad[3] else None
        for number, part in enumerate(cache_sized(x, x[0].numel())):
            projected, soft, total, y = saved[4 * number : 4 * number + 4]
            rows = x[part].flatten(0, 2)
            grads = rows.new_empty(len(rows), len(weight))  # of queries, keys, v and t
            of_t = grads[:, -channels:]
            if h is None:
                of_t.copy_(grad[part].flatten(0, 2))
            else:
                torch.addcmul(level, h[part].flatten(0, 2), slope, out=of_t).add_(grad[part].flatten(0, 2))
            query, key, value = split_projected(projected.view(-1, places, len(weight) - channels), channels)
            of_h = of_t.unflatten(0, (-1, places))
            if ctx.sum_axis == -3:
                attention = soft / total
                of_value = torch.bmm(attention.flatten(0, 1), of_h).neg_()
                into = torch.bmm(value, of_h.mT).view_as(soft)  # minus the gradient of A
                # A = P / Z: dP = (dA - sum of dA A) / Z
                into.sub_((into * attention).sum(-3, keepdim=True)).div_(total)
                into = into.flatten(0, 1)
            else:
                # dP = (dA - sum of dA A) / Z, where dA = -v dh^T, and the sum over the rows is -y . dh
                of_y = of_h / total.flatten(0, 1).mT
                last = (of_y * y).sum(-1, keepdim=True).neg_()
                of_value = torch.bmm(soft.flatten(0, 1), of_y).neg_()
                into = torch.bmm(pad(value, (0, 1), value=1), torch.cat([of_y, last], -1).mT)
            # P = softmax E: dE = P (dP - sum of dP P)
            into = torch._softmax_backward_data(into, soft.flatten(0, 1), -1, soft.dtype)
            of_query, of_key, to_value, _ = grads.unflatten(0, (-1, places)).split(
                [narrow // 2, narrow // 2, channels, channels], -1
            )
            if ctx.sum_axis == -3:
                to_query, to_key = torch.bmm(into, key), torch.bmm(into.mT, query)
            else:  # a large matrix times few columns: MKL is several times as slow as at the transpose
                to_query, to_key = torch.bmm(key.mT, into.mT).mT, torch.bmm(query.mT, into).mT
            torch.neg(to_query, out=of_query)
            torch.neg(to_key, out=of_key)
            to_value.copy_(of_value)
            torch.mm(grads, weight, out=grad_x[part].flatten(0, 2))
            grad_weight.addmm_(grads.T, rows)
            if grad_bias is not None:
                grad_bias += of_value.sum((0, 1))
        return grad_x, *grad_weight.split([narrow, 2 * channels]), grad_bias, None, None, None


def _sum_powers(h: Tensor, pivot: Tensor) -> Tensor:
    """Sums (2, C) of differences from one typical row, and of their squares: these do not cancel."""
    rows = h.flatten(0, 2).numpy()
    blocks = -(-len(rows) // ROWS)
    sums = h.new_zeros(blocks, 2, h.shape[-1])
    run_rows(_add_powers, blocks, ROWS, rows, pivot.numpy(), sums.numpy())
    return sums.sum(0, dtype=torch.float64)


@jit
def _add_powers(size, rows, pivot, sums, start, stop):
    """Blocks [start, stop) of ``size`` rows each."""
    for block in range(start, stop):
        first, second = sums[block]
        for r in range(block * size, min(block * size + size, len(rows))):
            row = rows[r]
            for c in range(len(row)):
                d = row[c] - pivot[c]
                first[c] += d
                second[c] += d * d
