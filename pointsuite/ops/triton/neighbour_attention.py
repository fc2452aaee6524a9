"""Offset attention among the neighbours of a centre: K x K matrices, Z over the S centres of a cloud.

The notation is that of :mod:`.offset_attention`. A program takes a few centres, whose matrices fit its
registers. One kernel sums P over a program's centres, PyTorch adds up the programs' sums, another kernel
makes P again and applies it; the gradient likewise, with dA P in the place of P.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...engine.backends import device_of
from ..offset_attention import RENORMALISE_EPS
from .tiles import block_size, load_tile, multiply, products

MAX_K = 128  # neighbours: beyond, a centre's matrix no longer fits the registers


@triton.jit
def _centre_rows(first, cloud, S, K: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):
    """The rows of the centres from `first` on that fill a block, BLOCK_K slots each, and which are real."""
    slot = tl.arange(0, BLOCK)
    centre = first + slot // BLOCK_K
    slot = slot % BLOCK_K
    return (cloud * S + centre) * K + slot, (centre < S) & (slot < K)


@triton.jit
def _soft(
    projected,
    row,
    real,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """P transposed: (keys, queries), zero between different centres and where there is no neighbour."""
    scores = products(projected + D, row, real, WIDTH, projected, row, real, WIDTH, D, BLOCK_D)
    centre = tl.arange(0, row.shape[0]) // BLOCK_K
    pair = (centre[:, None] == centre[None, :]) & real[:, None]
    scores = tl.where(pair, scores, -3e38)
    soft = tl.exp(scores - tl.max(scores, 0)[None, :])
    return tl.where(pair & real[None, :], soft / tl.sum(soft, 0)[None, :], 0)


@triton.jit
def _folded(matrix, cloud, SIZE: tl.constexpr, BLOCK_K: tl.constexpr):
    """A cloud's (BLOCK_K, BLOCK_K) matrix, repeated over a block of SIZE."""
    slot = tl.arange(0, SIZE) % BLOCK_K
    return tl.load(matrix + (cloud * BLOCK_K + slot[:, None]) * BLOCK_K + slot[None, :])


@triton.jit(do_not_specialize=["S", "SPLITS"])
def _neighbour_sum_kernel(
    projected,  # (B, S, K, 2 D + C)
    grad,  # (B, S, K, C), or None to sum P and not dA P
    partial,  # (B, SPLITS, BLOCK, BLOCK), transposed
    S,
    SPLITS,
    K: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    WIDTH: tl.constexpr = 2 * D + C
    CENTRES: tl.constexpr = BLOCK // BLOCK_K
    program = tl.program_id(0).to(tl.int64)
    cloud, split = program // SPLITS, program % SPLITS
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for step in range(STEPS):
        row, real = _centre_rows((split * STEPS + step) * CENTRES, cloud, S, K, BLOCK, BLOCK_K)
        soft = _soft(projected, row, real, D, WIDTH, BLOCK_K, BLOCK_D)
        if grad is not None:
            values = projected + 2 * D
            soft *= -products(grad, row, real, C, values, row, real, WIDTH, C, BLOCK_C)
        total += soft
    slot = tl.arange(0, BLOCK)
    tl.store(partial + (program * BLOCK + slot[:, None]) * BLOCK + slot[None, :], total)


@triton.jit(do_not_specialize=["S", "SPLITS"])
def _neighbour_kernel(
    x,  # (B, S, K, C)
    projected,  # (B, S, K, 2 D + C)
    inverse,  # (B, BLOCK_K, BLOCK_K): 1 / Z, transposed
    out,  # (B, S, K, C)
    S,
    SPLITS,
    K: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    WIDTH: tl.constexpr = 2 * D + C
    CENTRES: tl.constexpr = BLOCK // BLOCK_K
    program = tl.program_id(0).to(tl.int64)
    cloud, split = program // SPLITS, program % SPLITS
    scale = _folded(inverse, cloud, BLOCK, BLOCK_K)
    for step in range(STEPS):
        row, real = _centre_rows((split * STEPS + step) * CENTRES, cloud, S, K, BLOCK, BLOCK_K)
        attention = _soft(projected, row, real, D, WIDTH, BLOCK_K, BLOCK_D) * scale
        for first in range(0, C, BLOCK_C):
            column = first + tl.arange(0, BLOCK_C)
            y = multiply(attention, load_tile(projected + 2 * D, row, real, column, WIDTH, C))
            place = row[:, None] * C + column[None, :]
            mask = real[:, None] & (column < C)[None, :]
            tl.store(out + place, tl.load(x + place, mask=mask, other=0) - y, mask=mask)


@triton.jit(do_not_specialize=["S", "SPLITS"])
def _neighbour_grad_kernel(
    projected,  # (B, S, K, 2 D + C)
    grad,  # (B, S, K, C)
    inverse,  # (B, BLOCK_K, BLOCK_K): 1 / Z, transposed
    common,  # (B, BLOCK_K, BLOCK_K): T, transposed
    grad_projected,  # (B, S, K, 2 D + C)
    S,
    SPLITS,
    K: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    WIDTH: tl.constexpr = 2 * D + C
    CENTRES: tl.constexpr = BLOCK // BLOCK_K
    program = tl.program_id(0).to(tl.int64)
    cloud, split = program // SPLITS, program % SPLITS
    scale = _folded(inverse, cloud, BLOCK, BLOCK_K)
    shift = _folded(common, cloud, BLOCK, BLOCK_K)
    for step in range(STEPS):
        row, real = _centre_rows((split * STEPS + step) * CENTRES, cloud, S, K, BLOCK, BLOCK_K)
        soft = _soft(projected, row, real, D, WIDTH, BLOCK_K, BLOCK_D)
        into = -products(grad, row, real, C, projected + 2 * D, row, real, WIDTH, C, BLOCK_C)  # dA
        into = soft * ((into - shift) * scale)
        into -= soft * tl.sum(into, 0)[None, :]  # dE
        for first in range(0, D, BLOCK_D):
            column = first + tl.arange(0, BLOCK_D)
            place = grad_projected + row[:, None] * WIDTH + column[None, :]
            mask = real[:, None] & (column < D)[None, :]
            of_query = multiply(tl.trans(into), load_tile(projected + D, row, real, column, WIDTH, D))
            tl.store(place, of_query, mask=mask)
            of_key = multiply(into, load_tile(projected, row, real, column, WIDTH, D))
            tl.store(place + D, of_key, mask=mask)
        attention = tl.trans(soft * scale)
        for first in range(0, C, BLOCK_C):
            column = first + tl.arange(0, BLOCK_C)
            of_value = -multiply(attention, load_tile(grad, row, real, column, C, C))
            place = grad_projected + row[:, None] * WIDTH + 2 * D + column[None, :]
            tl.store(place, of_value, mask=real[:, None] & (column < C)[None, :])


def forward(x: Tensor, projected: Tensor, _: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """x - A^T v, and what :func:`backward` takes besides."""
    constants, splits = constants_of(x.shape, projected.shape[-1])
    grid = (len(x) * splits,)
    out = torch.empty_like(x)
    with device_of(x):
        partial = _partial_sums(projected, None, splits, constants)
        inverse = 1 / (_fold(partial, constants) + RENORMALISE_EPS)
        _neighbour_kernel[grid](x, projected, inverse, out, x.shape[1], splits, **constants)
    return out, (inverse,)


def backward(grad: Tensor, projected: Tensor, inverse: Tensor) -> Tensor:
    """The gradient of `projected`."""
    constants, splits = constants_of(grad.shape, projected.shape[-1])
    grid = (len(grad) * splits,)
    grad_projected = torch.empty_like(projected)
    with device_of(grad):
        common = _fold(_partial_sums(projected, grad, splits, constants), constants) * inverse
        _neighbour_grad_kernel[grid](
            projected, grad, inverse, common, grad_projected, grad.shape[1], splits, **constants
        )
    return grad_projected


def _partial_sums(projected: Tensor, grad: Tensor | None, splits: int, constants: dict) -> Tensor:
    batch, block = len(projected), constants["BLOCK"]
    partial = projected.new_empty(batch, splits, block, block, dtype=torch.float32)
    _neighbour_sum_kernel[(batch * splits,)](
        projected, grad, partial, projected.shape[1], splits, **constants
    )
    return partial


def _fold(partial: Tensor, constants: dict) -> Tensor:
    """Add up the programs' sums (B, splits, BLOCK, BLOCK), and the centres side by side in a block."""
    block, slots = constants["BLOCK"], constants["BLOCK_K"]
    total = partial.sum(1).view(-1, block // slots, slots, block // slots, slots)
    return total.diagonal(dim1=1, dim2=3).sum(-1).contiguous()  # (B, BLOCK_K, BLOCK_K)


def constants_of(shape: tuple[int, ...], width: int) -> tuple[dict, int]:
    """The kernels' constants, and into how many programs a cloud of `shape` (B, S, K, C) is split."""
    _, size, k, channels = shape
    slots = triton.next_power_of_2(k)
    block = max(16, slots)
    steps = 8  # blocks of centres a program takes: an eighth of all matrices' size is left to add up
    constants = {
        "K": k,
        "D": (width - channels) // 2,
        "C": channels,
        "STEPS": steps,
        "BLOCK": block,
        "BLOCK_K": slots,
        "BLOCK_D": block_size((width - channels) // 2, 32),
        "BLOCK_C": block_size(channels, 32),
        "num_warps": block // 8,
    }
    return constants, triton.cdiv(size, block // slots * steps)
