"""x + ReLU(slope h + shift), a residual connection behind a batch norm."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..engine.backends import fuses_on_cpu
from ..engine.parallel import jit_nan, run_rows

ROWS = 512  # whose sums are taken in the type of x, before they are added up in float64


def add_activated(x: Tensor, h: Tensor, slope: Tensor, shift: Tensor, *, fused: bool = True) -> Tensor:
    """Compute x + ReLU(slope * h + shift).

    Args:
        x, h: (..., C), differentiable.
        slope, shift: (C,), differentiable.
        fused: on the CPU and in no autocast, in one pass over memory, and back in one.

    Returns:
        (..., C).
    """
    if fused and fuses_on_cpu(x):
        return _AddActivated.apply(x, h, slope, shift)
    return x + torch.addcmul(shift, h, slope).relu()


class _AddActivated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, h, slope, shift):
        x, h = x.contiguous(), h.contiguous()
        out = torch.empty_like(x)
        rows = [t.flatten(0, -2).numpy() for t in (x, h, out)]
        run_rows(_forward, len(rows[0]), *rows, slope.numpy(), shift.numpy(), grain=ROWS)
        ctx.save_for_backward(h, slope, shift)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        h, slope, shift = ctx.saved_tensors
        grad = grad.contiguous()
        grad_h = torch.empty_like(h)
        rows = [t.flatten(0, -2).numpy() for t in (grad, h, grad_h)]
        blocks = -(-len(rows[0]) // ROWS)
        sums = h.new_zeros(blocks, 2, h.shape[-1])
        run_rows(_backward, blocks, ROWS, *rows, slope.numpy(), shift.numpy(), sums.numpy())
        return grad, grad_h, *sums.sum(0, dtype=torch.float64).to(h.dtype)


@jit_nan
def _forward(x, h, out, slope, shift, start, stop):
    zero = x.dtype.type(0)  # a plain 0 would turn float32 into float64
    for r in range(start, stop):
        old, row, new = x[r], h[r], out[r]
        for c in range(len(row)):
            value = slope[c] * row[c] + shift[c]
            new[c] = old[c] + (zero if value <= zero else value)


@jit_nan
def _backward(size, grad, h, grad_h, slope, shift, sums, start, stop):
    """Blocks [start, stop) of ``size`` rows each."""
    zero = h.dtype.type(0)
    for block in range(start, stop):
        of_slope, of_shift = sums[block]
        for r in range(block * size, min(block * size + size, len(h))):
            old, row, new = grad[r], h[r], grad_h[r]
            for c in range(len(row)):
                g, value = old[c], row[c]
                g = zero if slope[c] * value + shift[c] <= zero else g
                new[c] = g * slope[c]
                of_slope[c] += g * value
                of_shift[c] += g
