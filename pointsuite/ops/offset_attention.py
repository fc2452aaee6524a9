"""x - A^T v, the self-attention of RISurConv with A = softmax(q k^T) divided by a sum of itself."""

import torch
from torch import Tensor

from ..engine.backends import has_triton

RENORMALISE_EPS = 1e-9


def offset_attention(x: Tensor, projected: Tensor, sum_axis: int, *, fused: bool = True) -> Tensor:
    """Attention with the renormalisation of PCT and RISurConv.

    E = q k^T without a scale; P = softmax of E over its last axis; A = P / (1e-9 + sum of P over `sum_axis`).

    Args:
        x: (B, S, N, C), differentiable.
        projected: (B, S, N, 2 D + C), queries, keys and values side by side; differentiable.
        sum_axis: -3 sums over the S groups of a cloud, entry by entry; -2 over the rows of a matrix.
        fused: outside torch.compile, CUDA tensors of 16 or 32 bits go to a Triton kernel that never holds the
            matrices. For the CPU there is :func:`projected_attention`.

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
    query, key, value = split_projected(projected, x.shape[-1])
    attention = (query @ key.transpose(-1, -2)).softmax(-1)  # (B, S, N, N)
    attention = attention / (attention.sum(sum_axis, keepdim=True) + RENORMALISE_EPS)
    flat = (t.flatten(0, 1) for t in (x, attention.transpose(-1, -2), value))
    return torch.baddbmm(*flat, alpha=-1).view_as(x)


def split_projected(projected: Tensor, channels: int) -> tuple[Tensor, ...]:
    """Queries and keys (..., D) and values (..., C) of (..., 2 D + C)."""
    narrow = (projected.shape[-1] - channels) // 2
    return projected.split([narrow, narrow, channels], -1)
