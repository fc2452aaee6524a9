"""Offset attention among the points of a cloud: N x N matrices, Z over the rows.

The notation is that of :mod:`.offset_attention`. As flash attention: the rows' log-sum-exp L comes first;
then P = exp(E - L) can be made a tile at a time, and y_j = (sum_i P_ij v_i) / Z_j needs its sum only at the
end. In the gradient T_j = -g_j . y_j and R_i = v_i . dv_i - (A T)_i, so neither needs a pass of its own.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...engine.backends import device_of
from ..offset_attention import RENORMALISE_EPS
from .tiles import block_size, load_tile, multiply, products

MAX_NARROW = 128  # channels of queries and keys: beyond, tiles no longer fit the shared memory


@triton.jit
def _own_rows(program, N, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """Program number -> matrix, tile of columns, and the block of rows that is this program's."""
    blocks = tl.cdiv(N, BLOCK)
    matrix, program = program // (blocks * TILES), program % (blocks * TILES)
    row = program // TILES * BLOCK + tl.arange(0, BLOCK)
    return matrix, program % TILES, matrix * N + row, row < N


@triton.jit(do_not_specialize=["N"])
def _row_sum_kernel(
    projected,  # (M, N, 2 D + C)
    logsum,  # (M, N): the logarithm of the sum of exp(E) over each row
    N,
    D: tl.constexpr,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    WIDTH: tl.constexpr = 2 * D + C
    matrix, _, row, real = _own_rows(tl.program_id(0).to(tl.int64), N, 1, BLOCK_M)
    top = tl.full((BLOCK_M,), -3e38, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for first in range(0, N, BLOCK_N):
        other = first + tl.arange(0, BLOCK_N)
        there = other < N
        scores = products(
            projected, row, real, WIDTH, projected + D, matrix * N + other, there, WIDTH, D, BLOCK_D
        )
        scores = tl.where(there[None, :], scores, -3e38)
        higher = tl.maximum(top, tl.max(scores, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(scores - higher[:, None]), 1)
        top = higher
    tl.store(logsum + row, top + tl.log(total), mask=real)


@triton.jit(do_not_specialize=["N"])
def _point_kernel(
    x,  # (M, N, C)
    projected,  # (M, N, 2 D + C)
    logsum,  # (M, N)
    inverse,  # (M, N): 1 / Z, to write
    out,  # (M, N, C)
    y,  # (M, N, C) float32, or None
    N,
    EPS: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    WIDTH: tl.constexpr = 2 * D + C
    matrix, tile, row, real = _own_rows(tl.program_id(0).to(tl.int64), N, TILES, BLOCK_M)
    column = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_M,), tl.float32)
    result = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for first in range(0, N, BLOCK_N):
        other = first + tl.arange(0, BLOCK_N)
        there = other < N
        other = matrix * N + other
        scores = products(projected + D, row, real, WIDTH, projected, other, there, WIDTH, D, BLOCK_D)
        soft = tl.exp(scores - tl.load(logsum + other, mask=there, other=float("inf"))[None, :])
        total += tl.sum(soft, 1)
        result += multiply(soft, load_tile(projected + 2 * D, other, there, column, WIDTH, C))
    scale = 1 / (total + EPS)
    result *= scale[:, None]
    if tile == 0:
        tl.store(inverse + row, scale, mask=real)
    place = row[:, None] * C + column[None, :]
    mask = real[:, None] & (column < C)[None, :]
    if y is not None:
        tl.store(y + place, result, mask=mask)
    tl.store(out + place, tl.load(x + place, mask=mask, other=0) - result, mask=mask)


@triton.jit(do_not_specialize=["N"])
def _point_value_grad_kernel(
    projected,  # (M, N, 2 D + C)
    grad,  # (M, N, C)
    logsum,  # (M, N)
    inverse,  # (M, N): 1 / Z
    common,  # (M, N): T
    rows,  # (TILES, M, N): what adds up to R
    grad_projected,  # (M, N, 2 D + C): the last C columns
    N,
    COUNT,  # M * N
    D: tl.constexpr,
    C: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    WIDTH: tl.constexpr = 2 * D + C
    matrix, tile, row, real = _own_rows(tl.program_id(0).to(tl.int64), N, TILES, BLOCK_M)
    column = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    own_logsum = tl.load(logsum + row, mask=real, other=float("inf"))
    shared = tl.zeros((BLOCK_M,), tl.float32)
    result = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for first in range(0, N, BLOCK_N):
        other = first + tl.arange(0, BLOCK_N)
        there = other < N
        other = matrix * N + other
        scores = products(projected, row, real, WIDTH, projected + D, other, there, WIDTH, D, BLOCK_D)
        scale = tl.load(inverse + other, mask=there, other=0)
        attention = tl.where(there[None, :], tl.exp(scores - own_logsum[:, None]), 0) * scale[None, :]
        shared += tl.sum(attention * tl.load(common + other, mask=there, other=0)[None, :], 1)
        result -= multiply(attention, load_tile(grad, other, there, column, C, C))
    value = load_tile(projected + 2 * D, row, real, column, WIDTH, C).to(tl.float32)
    place = grad_projected + row[:, None] * WIDTH + 2 * D + column[None, :]
    tl.store(place, result, mask=real[:, None] & (column < C)[None, :])
    part = tl.sum(value * result, 1)
    if tile == 0:
        part -= shared
    tl.store(rows + tile.to(tl.int64) * COUNT + row, part, mask=real)


@triton.jit(do_not_specialize=["N"])
def _point_grad_kernel(
    projected,  # (M, N, 2 D + C)
    grad,  # (M, N, C)
    logsum,  # (M, N)
    inverse,  # (M, N): 1 / Z
    common,  # (M, N): T
    rows,  # (M, N): R
    grad_projected,  # (M, N, 2 D + C): the first or the second D columns
    N,
    OF_KEY: tl.constexpr,  # whether a program's rows are keys, not queries
    D: tl.constexpr,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_OUT: tl.constexpr,  # all D columns
):
    WIDTH: tl.constexpr = 2 * D + C
    matrix, _, row, real = _own_rows(tl.program_id(0).to(tl.int64), N, 1, BLOCK_M)
    column = tl.arange(0, BLOCK_OUT)
    value = projected + 2 * D
    if OF_KEY:
        own_scale = tl.load(inverse + row, mask=real, other=0)[:, None]
        own_common = tl.load(common + row, mask=real, other=0)[:, None]
    else:
        own_logsum = tl.load(logsum + row, mask=real, other=float("inf"))[:, None]
        own_rows = tl.load(rows + row, mask=real, other=0)[:, None]
    result = tl.zeros((BLOCK_M, BLOCK_OUT), tl.float32)
    for first in range(0, N, BLOCK_N):
        other = first + tl.arange(0, BLOCK_N)
        there = other < N
        other = matrix * N + other
        if OF_KEY:
            scores = products(projected + D, row, real, WIDTH, projected, other, there, WIDTH, D, BLOCK_D)
            into = products(grad, row, real, C, value, other, there, WIDTH, C, BLOCK_C)
            soft = tl.exp(scores - tl.load(logsum + other, mask=there, other=float("inf"))[None, :])
            into = (-into - own_common) * own_scale - tl.load(rows + other, mask=there, other=0)[None, :]
            values = load_tile(projected, other, there, column, WIDTH, D)
        else:
            scores = products(projected, row, real, WIDTH, projected + D, other, there, WIDTH, D, BLOCK_D)
            into = products(value, row, real, WIDTH, grad, other, there, C, C, BLOCK_C)
            soft = tl.where(there[None, :], tl.exp(scores - own_logsum), 0)
            scale = tl.load(inverse + other, mask=there, other=0)[None, :]
            into = (-into - tl.load(common + other, mask=there, other=0)[None, :]) * scale - own_rows
            values = load_tile(projected + D, other, there, column, WIDTH, D)
        result += multiply(soft * into, values)
    place = grad_projected + row[:, None] * WIDTH + column[None, :]
    if OF_KEY:
        place += D
    tl.store(place, result, mask=real[:, None] & (column < D)[None, :])


def forward(x: Tensor, projected: Tensor, save: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """x - A^T v, and what :func:`backward` takes besides, complete if `save`."""
    constants, blocks, tiles = constants_of(x.shape, projected)
    size, matrices = x.shape[-2], x.shape[0] * x.shape[1]
    grid = (matrices * blocks,)
    out = torch.empty_like(x)
    y = torch.empty_like(x, dtype=torch.float32) if save else None
    logsum, inverse = torch.empty(2, *x.shape[:-1], dtype=torch.float32, device=x.device)
    with device_of(x):
        _row_sum_kernel[grid](projected, logsum, size, **_without(constants, "BLOCK_C"))
        _point_kernel[(grid[0] * tiles,)](
            x, projected, logsum, inverse, out, y, size, EPS=RENORMALISE_EPS, TILES=tiles, **constants
        )
    return out, (logsum, inverse, y)


def backward(grad: Tensor, projected: Tensor, logsum: Tensor, inverse: Tensor, y: Tensor) -> Tensor:
    """The gradient of `projected`."""
    constants, blocks, tiles = constants_of(grad.shape, projected)
    size, matrices = grad.shape[-2], grad.shape[0] * grad.shape[1]
    grad_projected = torch.empty_like(projected)
    common = -(grad * y).sum(-1)
    parts = logsum.new_empty(tiles, *logsum.shape)
    known = (projected, grad, logsum, inverse, common)
    with device_of(grad):
        _point_value_grad_kernel[(matrices * blocks * tiles,)](
            *known, parts, grad_projected, size, logsum.numel(), TILES=tiles, **constants
        )
        rows = parts.sum(0)
        for of_key in (False, True):
            _point_grad_kernel[(matrices * blocks,)](
                *known,
                rows,
                grad_projected,
                size,
                OF_KEY=of_key,
                BLOCK_OUT=block_size(constants["D"], MAX_NARROW),
                **constants,
            )
    return grad_projected


def constants_of(shape: tuple[int, ...], projected: Tensor) -> tuple[dict, int, int]:
    """The kernels' constants, and a matrix's number of blocks of rows and of tiles of columns."""
    size, channels = shape[-2:]
    narrow = (projected.shape[-1] - channels) // 2
    block = 64
    constants = {
        "D": narrow,
        "C": channels,
        "BLOCK_M": block,
        "BLOCK_N": 32,
        "BLOCK_D": block_size(narrow, 32),
        "BLOCK_C": block_size(channels, 64),
        "num_warps": 4,
    }
    return constants, triton.cdiv(size, block), triton.cdiv(channels, constants["BLOCK_C"])


def _without(constants: dict, name: str) -> dict:
    return {key: value for key, value in constants.items() if key != name}
