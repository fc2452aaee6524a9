"""RISurConv's two attentions on the GPU: no matrix of attention reaches global memory, in neither direction.

Notation, for one matrix: E = q k^T, P = softmax of E over its rows, A = P / Z with Z = 1e-9 + a sum of P,
y = A^T v, out = x - y; g is the gradient of out, so that of A is dA[i, j] = -v_i . g_j. With T the sum of
dA A over the axis that Z sums over, dP = (dA - T) / Z and dE = P (dP - R), R being the row sums of P dP.

Sums run in an order that depends on the shape of one cloud alone and there are no atomics: results repeat to
the bit and do not depend on the rest of the batch.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import neighbour_attention, point_attention
from .neighbour_attention import MAX_K
from .point_attention import MAX_NARROW


def offset_attention(x: Tensor, projected: Tensor, sum_axis: int) -> Tensor:
    """Like :func:`pointsuite.ops.offset_attention`, for contiguous tensors that :func:`supports` accepts."""
    if torch.is_grad_enabled() and (x.requires_grad or projected.requires_grad):
        return _OffsetAttention.apply(x, projected, sum_axis)
    return _kernels(sum_axis).forward(x, projected, False)[0]


def _kernels(sum_axis: int) -> ModuleType:
    return neighbour_attention if sum_axis == -3 else point_attention


def supports(x: Tensor, projected: Tensor, sum_axis: int) -> bool:
    """Whether the kernels take these dtypes and sizes."""
    narrow = (projected.shape[-1] - x.shape[-1]) // 2
    return (
        x.dtype == projected.dtype
        and x.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and 1 <= narrow <= MAX_NARROW
        and (sum_axis == -2 or x.shape[-2] <= MAX_K)
        and x.numel() > 0
    )


class _OffsetAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, projected, sum_axis):
        out, saved = _kernels(sum_axis).forward(x, projected, True)
        ctx.save_for_backward(projected, *saved)
        ctx.sum_axis = sum_axis
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad, _kernels(ctx.sum_axis).backward(grad.contiguous(), *ctx.saved_tensors), None
