"""Convolutions with kernels of positions on the GPU.

A program takes some positions of a map and some kernels of each, and all channels that these serve: a weight
is read once for many channels. Backward, each place of a gradient is summed by one program, in one order:
that of the map gathers what its position gave to the windows around it, that of the kernels sums channels.
Borders are masks; nothing is padded.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pointsuite.engine.backends import device_of

NUMBERS = 1024  # of a program's tile of a map


@triton.jit
def _own(H, W, G, BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr):
    """Image, rows and columns of the program's positions, which of them exist, and kernels."""
    position = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    kernel = tl.program_id(2) * BLOCK_G + tl.arange(0, BLOCK_G)
    return tl.program_id(1).to(tl.int64), position // W, position % W, position < H * W, kernel


@triton.jit
def _read_map(base, image, y, x, real, start, kernel, strides, G, R, BLOCK_R: tl.constexpr):
    """(R, P, G) of channels r G + g at positions, from r = start on; zeros where not real."""
    repeat = start + tl.arange(0, BLOCK_R)
    place = image * strides[0] + y.to(tl.int64) * strides[1] + x.to(tl.int64) * strides[2]
    channel = (repeat[:, None, None] * G + kernel[None, None, :]) * strides[3]
    mask = (repeat < R)[:, None, None] & (kernel < G)[None, None, :] & real[None, :, None]
    return tl.load(base + place[None, :, None] + channel, mask=mask, other=0)


@triton.jit
def _read_weights(base, image, y, x, real, tap, kernel, strides, G, L: tl.constexpr):
    """(P, G) of a tap of the kernels of positions; zeros where not real."""
    place = image * strides[0] + y.to(tl.int64) * strides[1] + x.to(tl.int64) * strides[2]
    place += (tap // L) * strides[3] + (tap % L) * strides[4]
    mask = real[:, None] & (kernel < G)[None, :]
    return tl.load(base + place[:, None] + (kernel * strides[5])[None, :], mask=mask, other=0)


@triton.jit
def _write_map(base, values, image, y, x, real, start, kernel, H, W, G, R, BLOCK_R: tl.constexpr):
    """The opposite of :func:`_read_map`, to a map whose channels are neighbours."""
    repeat = start + tl.arange(0, BLOCK_R)
    place = ((image * H + y) * W + x) * R * G
    mask = (repeat < R)[:, None, None] & (kernel < G)[None, None, :] & real[None, :, None]
    tl.store(
        base + place[None, :, None] + (repeat[:, None, None] * G + kernel[None, None, :]), values, mask=mask
    )


@triton.jit
def _inside(y, x, real, H, W):
    return real & (y >= 0) & (y < H) & (x >= 0) & (x < W)


@triton.jit
def _forward_kernel(
    x, kernels, out, x_strides, kernel_strides, H, W, G, R,
    K: tl.constexpr, L: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    SUM: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    image, row, column, real, kernel = _own(H, W, G, BLOCK_P, BLOCK_G)
    for start in range(0, R, BLOCK_R):
        total = tl.zeros((BLOCK_R, BLOCK_P, BLOCK_G), SUM)
        for tap in range(K * L):
            y, z = row + tap // L - K // 2, column + tap % L - L // 2
            inside = _inside(y, z, real, H, W)
            weights = _read_weights(kernels, image, row, column, inside, tap, kernel, kernel_strides, G, L)
            seen = _read_map(x, image, y, z, inside, start, kernel, x_strides, G, R, BLOCK_R)
            total += weights[None].to(SUM) * seen.to(SUM)
        _write_map(out, total, image, row, column, real, start, kernel, H, W, G, R, BLOCK_R)


@triton.jit
def _backward_kernel(
    grad, x, kernels, grad_x, grad_kernels, grad_strides, x_strides, kernel_strides, H, W, G, R,
    K: tl.constexpr, L: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    SUM: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    image, row, column, real, kernel = _own(H, W, G, BLOCK_P, BLOCK_G)
    for start in range(0, R, BLOCK_R):
        total = tl.zeros((BLOCK_R, BLOCK_P, BLOCK_G), SUM)
        for tap in range(K * L):  # the position whose window has this one at the tap
            y, z = row - tap // L + K // 2, column - tap % L + L // 2
            inside = _inside(y, z, real, H, W)
            weights = _read_weights(kernels, image, y, z, inside, tap, kernel, kernel_strides, G, L)
            slope = _read_map(grad, image, y, z, inside, start, kernel, grad_strides, G, R, BLOCK_R)
            total += weights[None].to(SUM) * slope.to(SUM)
        _write_map(grad_x, total, image, row, column, real, start, kernel, H, W, G, R, BLOCK_R)
    place = ((image * H + row) * W + column) * (K * L) * G
    for tap in range(K * L):
        y, z = row + tap // L - K // 2, column + tap % L - L // 2
        inside = _inside(y, z, real, H, W)
        own = tl.zeros((BLOCK_P, BLOCK_G), SUM)
        for start in range(0, R, BLOCK_R):
            slope = _read_map(grad, image, row, column, real, start, kernel, grad_strides, G, R, BLOCK_R)
            seen = _read_map(x, image, y, z, inside, start, kernel, x_strides, G, R, BLOCK_R)
            own += tl.sum(slope.to(SUM) * seen.to(SUM), 0)
        mask = real[:, None] & (kernel < G)[None, :]
        tl.store(grad_kernels + place[:, None] + (tap * G + kernel)[None, :], own, mask=mask)


def involve(x: Tensor, kernels: Tensor) -> Tensor:
    """Like :func:`~dense.ops.involution`, of tensors that are checked."""
    return _Involution.apply(x, kernels)


class _Involution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernels):
        ctx.save_for_backward(x, kernels)
        return forward(x, kernels)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return backward(grad, *ctx.saved_tensors)


def forward(x: Tensor, kernels: Tensor) -> Tensor:
    """What the op returns."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grid, numbers, constants = plan(x, kernels)
    with device_of(x):
        _forward_kernel[grid](x, kernels, out, x.stride(), kernels.stride(), *numbers, **constants)
    return out


def backward(grad: Tensor, x: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the kernels, in their dtype."""
    made = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, kernels)]
    grid, numbers, constants = plan(x, kernels)
    with device_of(x):
        _backward_kernel[grid](
            grad, x, kernels, *made, grad.stride(), x.stride(), kernels.stride(), *numbers, **constants
        )
    return tuple(made)


def plan(x: Tensor, kernels: Tensor) -> tuple[tuple, tuple, dict]:
    """Grid of programs, and the kernels' numbers and constants."""
    height, width, channels = x.shape[1:]
    rows, columns, groups = kernels.shape[3:]
    repeats = channels // groups
    block_g = min(32, triton.next_power_of_2(groups))
    block_r = min(8, triton.next_power_of_2(repeats))
    block_p = max(1, NUMBERS // (block_g * block_r))
    constants = {"K": rows, "L": columns, "BLOCK_P": block_p, "BLOCK_G": block_g, "BLOCK_R": block_r}
    grid = (triton.cdiv(height * width, block_p), len(x), triton.cdiv(groups, block_g))
    return grid, (height, width, groups, repeats), constants
