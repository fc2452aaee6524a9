"""ReLU(x W^T + b) of a constant x: what embeds features that have no gradient."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from ..engine.backends import fuses_on_cpu
from ..engine.parallel import cache_sized


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor, *, fused: bool = True) -> Tensor:
    """Compute ReLU(x W^T + b).

    Args:
        x: (B, ..., D), taken as a constant.
        weight: (C, D), differentiable.
        bias: (C,), differentiable.
        fused: on the CPU and in no autocast, never hold the gradient before the ReLU.

    Returns:
        (B, ..., C).
    """
    if fused and fuses_on_cpu(x) and torch.is_grad_enabled():
        return _LinearReLU.apply(x.detach(), weight, bias)
    return linear(x.detach(), weight, bias).relu_()


class _LinearReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        out = linear(x, weight, bias).relu_()
        ctx.save_for_backward(x, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, out = ctx.saved_tensors
        grad_weight, grad_bias = out.new_zeros(x.shape[-1], out.shape[-1]), out.new_zeros(out.shape[-1])
        for part in cache_sized(out, out[0].numel()):
            rows = torch.ops.aten.threshold_backward(grad[part], out[part], 0).flatten(0, -2)
            grad_weight.addmm_(x[part].flatten(0, -2).T, rows)  # MKL is slower at its transpose
            grad_bias += rows.sum(0)
        return None, grad_weight.T, grad_bias
