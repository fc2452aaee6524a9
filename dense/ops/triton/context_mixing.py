"""Context mixing on the GPU.

A program takes some positions of a group, and goes through the places of their windows one after another: it
makes the logit of a place, adds it to an online softmax, and takes the values there. Weights never leave the
registers. The gradient is that of the portable form, which makes the weights of some rows at a time anew.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pointsuite.engine.backends import device_of

from ..context_mixing import mix_portably
from ..neighborhood_attention import make_axes

POSITIONS = 64  # of a program
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _first(p, n, K: tl.constexpr):
    """Where the windows of positions p of an axis of n begin."""
    return tl.minimum(tl.maximum(p - K // 2, 0), n - K)


@triton.jit
def _forward_kernel(
    q, taps, offset, bias, v, out,  # taps, offset, bias and out are contiguous
    q_strides, v_strides,  # of (B, H, W, G, channels)
    H, W, GROUPS,
    K: tl.constexpr, C: tl.constexpr, C_V: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    image, group = (tl.program_id(1) // GROUPS).to(tl.int64), tl.program_id(1) % GROUPS
    position = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    real = position < H * W
    y, x = position // W, position % W
    top, left = _first(y, H, K), _first(x, W, K)
    channel, channel_v = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_V)
    q += image * q_strides[0] + group * q_strides[3]
    v += image * v_strides[0] + group * v_strides[3]
    taps += (image * GROUPS + group) * K * K * C
    bias += group * (2 * K - 1) * (2 * K - 1)
    place = y.to(tl.int64) * q_strides[1] + x.to(tl.int64) * q_strides[2]
    mask = real[:, None] & (channel < C)[None, :]
    queries = tl.load(q + place[:, None] + (channel * q_strides[4])[None, :], mask=mask, other=0)
    queries = queries.to(tl.float32)
    mask = real[:, None] & (channel_v < C_V)[None, :]
    highest = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    mean = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    for t in range(0, K * K):
        row, column = top + t // K, left + t % K
        tap = tl.load(taps + t * C + channel, mask=channel < C, other=0).to(tl.float32)
        logits = tl.sum(queries * tap[None, :], 1) + tl.load(offset + t).to(tl.float32)
        index = (row - y + K - 1) * (2 * K - 1) + column - x + K - 1
        logits += tl.load(bias + index, mask=real, other=0).to(tl.float32)
        higher = tl.maximum(highest, logits)
        weights, shrink = tl.exp2((logits - higher) * LOG2E), tl.exp2((highest - higher) * LOG2E)
        place = row.to(tl.int64) * v_strides[1] + column.to(tl.int64) * v_strides[2]
        values = tl.load(v + place[:, None] + (channel_v * v_strides[4])[None, :], mask=mask, other=0)
        mean = mean * shrink[:, None] + weights[:, None] * values.to(tl.float32)
        total = total * shrink + weights
        highest = higher
    place = ((image * H * W + position) * GROUPS + group) * C_V
    tl.store(out + place[:, None] + channel_v[None, :], mean / total[:, None], mask=mask)


def forward(q: Tensor, taps: Tensor, offset: Tensor, bias: Tensor, v: Tensor, window: int) -> Tensor:
    """(B, H, W, G, c), of arguments as of :func:`dense.ops.context_mixing`."""
    batch, height, width, groups, channels = v.shape
    out = v.new_empty(v.shape)
    grid = (triton.cdiv(height * width, POSITIONS), batch * groups)
    blocks = (triton.next_power_of_2(t.shape[-1]) for t in (q, v))
    with device_of(q):
        _forward_kernel[grid](
            q, taps.contiguous(), offset.contiguous(), bias.contiguous(), v, out, q.stride(), v.stride(),
            height, width, groups, window, q.shape[-1], channels, POSITIONS, *blocks,
        )  # fmt: skip
    return out


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, taps, offset, bias, v, window):
        ctx.save_for_backward(q, taps, offset, bias, v)
        ctx.window = window
        return forward(q, taps, offset, bias, v, window)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        inputs = [
            t.detach().requires_grad_(n)
            for t, n in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        ]
        with torch.enable_grad():
            y = mix_portably(*inputs, make_axes(inputs[0].shape[1:3], ctx.window))
        wanted = [t for t in inputs if t.requires_grad]
        made = iter(torch.autograd.grad(y, wanted, grad))
        return *(next(made) if t.requires_grad else None for t in inputs), None


def mix(q: Tensor, taps: Tensor, offset: Tensor, bias: Tensor, v: Tensor, window: int) -> Tensor:
    """:func:`forward`, differentiable once."""
    return _Mix.apply(q, taps, offset, bias, v, window)
