"""x - A^T v, the self-attention of RISurConv with A = softmax(q k^T) divided by a sum of itself."""

import torch
from torch import Tensor

from ..engine.backends import has_triton
from ..engine.parallel import cache_sized

RENORMALISE_EPS = 1e-9


def offset_attention(x: Tensor, projected: Tensor, sum_axis: int, *, fused: bool = True) -> Tensor:
    """Attention with the renormalisation of PCT and RISurConv.

    E = q k^T without a scale; P = softmax of E over its last axis; A = P / (1e-9 + sum of P over `sum_axis`).

    Args:
        x: (B, S, N, C), differentiable.
        projected: (B, S, N, 2 D + C), queries, keys and values side by side; differentiable.
        sum_axis: -3 sums over the S groups of a cloud, entry by entry; -2 over the rows of a matrix.
        fused: outside torch.compile, never hold all matrices, with the gradient written out. CUDA tensors of
            16 or 32 bits go to a Triton kernel; on the CPU and outside autocast, a few clouds are worked on
            at a time, so that what lies between the matrix products stays in the cache.

    Returns:
        x - A^T v, (B, S, N, C).

    Source: Guo et al., "PCT: Point cloud transformer", 2021; RISurConv, ECCV 2024.
    """
    if fused and x.is_cuda and not torch.compiler.is_compiling() and has_triton():
        from .triton import offset_attention as kernel

        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            x, projected = x.to(dtype), projected.to(dtype)
        if kernel.supports(x, projected, sum_axis):
            return kernel.offset_attention(x.contiguous(), projected.contiguous(), sum_axis)
    plain = x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    if fused and not plain and torch.is_grad_enabled():
        return _OffsetAttention.apply(x, projected, sum_axis)
    query, key, value = _split(projected, x.shape[-1])
    attention = (query @ key.transpose(-1, -2)).softmax(-1)  # (B, S, N, N)
    attention = attention / (attention.sum(sum_axis, keepdim=True) + RENORMALISE_EPS)
    flat = (t.flatten(0, 1) for t in (x, attention.transpose(-1, -2), value))
    return torch.baddbmm(*flat, alpha=-1).view_as(x)


def _split(projected: Tensor, channels: int) -> tuple[Tensor, ...]:
    narrow = (projected.shape[-1] - channels) // 2
    return projected.split([narrow, narrow, channels], -1)


class _OffsetAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, projected, sum_axis):
        x, projected = x.contiguous(), projected.contiguous()  # so that their parts can be written in place
        out = torch.empty_like(x)
        soft = x.new_empty(*x.shape[:-1], x.shape[-2])  # P
        sums = []
        for part in cache_sized(x, x[0].numel()):
            query, key, value = (t.flatten(0, 1) for t in _split(projected[part], x.shape[-1]))
            torch.softmax(torch.bmm(query, key.transpose(1, 2)), -1, out=soft[part].flatten(0, 1))
            total = soft[part].sum(sum_axis, keepdim=True).add_(RENORMALISE_EPS)
            attention = (soft[part] / total).flatten(0, 1).transpose(1, 2)
            torch.baddbmm(x[part].flatten(0, 1), attention, value, alpha=-1, out=out[part].flatten(0, 1))
            sums.append(total)
        ctx.save_for_backward(projected, soft, torch.cat(sums))
        ctx.sum_axis = sum_axis
        return out

    @staticmethod
    def backward(ctx, grad):
        projected, soft, sums = ctx.saved_tensors
        grad = grad.contiguous()
        grad_projected = torch.empty_like(projected)
        for part in cache_sized(grad, grad[0].numel()):
            query, key, value = (t.flatten(0, 1) for t in _split(projected[part], grad.shape[-1]))
            to_query, to_key, to_value = (
                t.flatten(0, 1) for t in _split(grad_projected[part], grad.shape[-1])
            )
            of_out = grad[part].flatten(0, 1)
            attention = soft[part] / sums[part]
            to_value.copy_(torch.bmm(attention.flatten(0, 1), of_out).neg_())
            into = torch.bmm(value, of_out.transpose(1, 2)).neg_().view_as(attention)  # gradient of A
            # A = P / Z: dP = (dA - sum of dA A over the summed axis) / Z
            into.sub_((into * attention).sum(ctx.sum_axis, keepdim=True)).div_(sums[part])
            # P = softmax E: dE = P (dP - sum of dP P over the row)
            into.mul_(soft[part])
            into.sub_(soft[part] * into.sum(-1, keepdim=True))
            into = into.flatten(0, 1)
            to_query.copy_(torch.bmm(into, key))
            to_key.copy_(torch.bmm(into.transpose(1, 2), query))
        return grad, grad_projected, None
