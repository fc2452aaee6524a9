"""RISurConv's two attentions on the GPU: no matrix of attention reaches global memory, in neither direction.

Notation, for one matrix: E = q k^T, P = softmax of E over its rows, A = P / Z with Z = 1e-9 + a sum of P,
y = A^T v, out = x - y; g is the gradient of out, so that of A is dA[i, j] = -v_i . g_j. With T the sum of
dA A over the axis that Z sums over, dP = (dA - T) / Z and dE = P (dP - R), R being the row sums of P dP.

*Neighbours* (K x K matrices, Z over the S centres of a cloud): a program takes a few centres, whose matrices
fit its registers. One kernel sums P over a program's centres, PyTorch adds up the programs' sums, another
kernel makes P again and applies it; the gradient likewise, with dA P in the place of P.

*Points* (N x N matrices, Z over the rows): as flash attention. The rows' log-sum-exp L comes first; then
P = exp(E - L) can be made a tile at a time, and y_j = (sum_i P_ij v_i) / Z_j needs its sum only at the end.
In the gradient T_j = -g_j . y_j and R_i = v_i . dv_i - (A T)_i, so neither needs a pass of its own.

Sums run in an order that depends on the shape of one cloud alone and there are no atomics: results repeat to
the bit and do not depend on the rest of the batch. Products of 16-bit numbers are summed in float32; those of
float32 numbers are not rounded to TF32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import device_of

EPS = 1e-9
MAX_K = 128  # neighbours: beyond, a centre's matrix no longer fits the registers
MAX_NARROW = 128  # channels of queries and keys: beyond, tiles no longer fit the shared memory


@triton.jit
def _tile(base, row, real, column, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    """Some of SIZE columns of the rows named by `row`, each of WIDTH numbers; zero where not `real`."""
    mask = real[:, None] & (column < SIZE)[None, :]
    return tl.load(base + row[:, None] * WIDTH + column[None, :], mask=mask, other=0)


@triton.jit
def _products(
    a,
    row_a,
    real_a,
    WIDTH_A: tl.constexpr,
    b,
    row_b,
    real_b,
    WIDTH_B: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Inner products of SIZE numbers, each row of `a` with each of `b`."""
    total = tl.zeros((row_a.shape[0], row_b.shape[0]), tl.float32)
    for first in range(0, SIZE, BLOCK):
        column = first + tl.arange(0, BLOCK)
        left = _tile(a, row_a, real_a, column, WIDTH_A, SIZE)
        right = _tile(b, row_b, real_b, column, WIDTH_B, SIZE)
        total = tl.dot(left, tl.trans(right), total, input_precision="ieee")
    return total


@triton.jit
def _multiply(weights, values):
    return tl.dot(weights.to(values.dtype), values, input_precision="ieee")


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
    scores = _products(projected + D, row, real, WIDTH, projected, row, real, WIDTH, D, BLOCK_D)
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
            soft *= -_products(grad, row, real, C, values, row, real, WIDTH, C, BLOCK_C)
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
            y = _multiply(attention, _tile(projected + 2 * D, row, real, column, WIDTH, C))
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
        into = -_products(grad, row, real, C, projected + 2 * D, row, real, WIDTH, C, BLOCK_C)  # dA
        into = soft * ((into - shift) * scale)
        into -= soft * tl.sum(into, 0)[None, :]  # dE
        for first in range(0, D, BLOCK_D):
            column = first + tl.arange(0, BLOCK_D)
            place = grad_projected + row[:, None] * WIDTH + column[None, :]
            mask = real[:, None] & (column < D)[None, :]
            of_query = _multiply(tl.trans(into), _tile(projected + D, row, real, column, WIDTH, D))
            tl.store(place, of_query, mask=mask)
            of_key = _multiply(into, _tile(projected, row, real, column, WIDTH, D))
            tl.store(place + D, of_key, mask=mask)
        attention = tl.trans(soft * scale)
        for first in range(0, C, BLOCK_C):
            column = first + tl.arange(0, BLOCK_C)
            of_value = -_multiply(attention, _tile(grad, row, real, column, C, C))
            place = grad_projected + row[:, None] * WIDTH + 2 * D + column[None, :]
            tl.store(place, of_value, mask=real[:, None] & (column < C)[None, :])


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
        scores = _products(
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
        scores = _products(projected + D, row, real, WIDTH, projected, other, there, WIDTH, D, BLOCK_D)
        soft = tl.exp(scores - tl.load(logsum + other, mask=there, other=float("inf"))[None, :])
        total += tl.sum(soft, 1)
        result += _multiply(soft, _tile(projected + 2 * D, other, there, column, WIDTH, C))
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
        scores = _products(projected, row, real, WIDTH, projected + D, other, there, WIDTH, D, BLOCK_D)
        scale = tl.load(inverse + other, mask=there, other=0)
        attention = tl.where(there[None, :], tl.exp(scores - own_logsum[:, None]), 0) * scale[None, :]
        shared += tl.sum(attention * tl.load(common + other, mask=there, other=0)[None, :], 1)
        result -= _multiply(attention, _tile(grad, other, there, column, C, C))
    value = _tile(projected + 2 * D, row, real, column, WIDTH, C).to(tl.float32)
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
            scores = _products(projected + D, row, real, WIDTH, projected, other, there, WIDTH, D, BLOCK_D)
            into = _products(grad, row, real, C, value, other, there, WIDTH, C, BLOCK_C)
            soft = tl.exp(scores - tl.load(logsum + other, mask=there, other=float("inf"))[None, :])
            into = (-into - own_common) * own_scale - tl.load(rows + other, mask=there, other=0)[None, :]
            values = _tile(projected, other, there, column, WIDTH, D)
        else:
            scores = _products(projected, row, real, WIDTH, projected + D, other, there, WIDTH, D, BLOCK_D)
            into = _products(value, row, real, WIDTH, grad, other, there, C, C, BLOCK_C)
            soft = tl.where(there[None, :], tl.exp(scores - own_logsum), 0)
            scale = tl.load(inverse + other, mask=there, other=0)[None, :]
            into = (-into - tl.load(common + other, mask=there, other=0)[None, :]) * scale - own_rows
            values = _tile(projected + D, other, there, column, WIDTH, D)
        result += _multiply(soft * into, values)
    place = grad_projected + row[:, None] * WIDTH + column[None, :]
    if OF_KEY:
        place += D
    tl.store(place, result, mask=real[:, None] & (column < D)[None, :])


def offset_attention(x: Tensor, projected: Tensor, sum_axis: int) -> Tensor:
    """Like :func:`pointsuite.ops.offset_attention`, for contiguous tensors that :func:`supports` accepts."""
    if torch.is_grad_enabled() and (x.requires_grad or projected.requires_grad):
        return _OffsetAttention.apply(x, projected, sum_axis)
    forward = _neighbour_forward if sum_axis == -3 else _point_forward
    return forward(x, projected, False)[0]


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
        out, saved = (_neighbour_forward if sum_axis == -3 else _point_forward)(x, projected, True)
        ctx.save_for_backward(projected, *saved)
        ctx.sum_axis = sum_axis
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        backward = _neighbour_backward if ctx.sum_axis == -3 else _point_backward
        return grad, backward(grad.contiguous(), *ctx.saved_tensors), None


def _neighbour_forward(x: Tensor, projected: Tensor, _: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    constants, splits = neighbour_constants(x.shape, projected.shape[-1])
    grid = (len(x) * splits,)
    out = torch.empty_like(x)
    with device_of(x):
        partial = _partial_sums(projected, None, splits, constants)
        inverse = 1 / (_fold(partial, constants) + EPS)
        _neighbour_kernel[grid](x, projected, inverse, out, x.shape[1], splits, **constants)
    return out, (inverse,)


def _neighbour_backward(grad: Tensor, projected: Tensor, inverse: Tensor) -> Tensor:
    constants, splits = neighbour_constants(grad.shape, projected.shape[-1])
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


def neighbour_constants(shape: tuple[int, ...], width: int) -> tuple[dict, int]:
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
        "BLOCK_D": _block((width - channels) // 2, 32),
        "BLOCK_C": _block(channels, 32),
        "num_warps": block // 8,
    }
    return constants, triton.cdiv(size, block // slots * steps)


def _point_forward(x: Tensor, projected: Tensor, save: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    constants, blocks, tiles = point_constants(x.shape, projected)
    size, matrices = x.shape[-2], x.shape[0] * x.shape[1]
    grid = (matrices * blocks,)
    out = torch.empty_like(x)
    y = torch.empty_like(x, dtype=torch.float32) if save else None
    logsum, inverse = torch.empty(2, *x.shape[:-1], dtype=torch.float32, device=x.device)
    with device_of(x):
        _row_sum_kernel[grid](projected, logsum, size, **_without(constants, "BLOCK_C"))
        _point_kernel[(grid[0] * tiles,)](
            x, projected, logsum, inverse, out, y, size, EPS=EPS, TILES=tiles, **constants
        )
    return out, (logsum, inverse, y)


def _point_backward(grad: Tensor, projected: Tensor, logsum: Tensor, inverse: Tensor, y: Tensor) -> Tensor:
    constants, blocks, tiles = point_constants(grad.shape, projected)
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
                BLOCK_OUT=_block(constants["D"], MAX_NARROW),
                **constants,
            )
    return grad_projected


def point_constants(shape: tuple[int, ...], projected: Tensor) -> tuple[dict, int, int]:
    """The kernels' constants, and a matrix's number of blocks of rows and of tiles of columns."""
    size, channels = shape[-2:]
    narrow = (projected.shape[-1] - channels) // 2
    block = 64
    constants = {
        "D": narrow,
        "C": channels,
        "BLOCK_M": block,
        "BLOCK_N": 32,
        "BLOCK_D": _block(narrow, 32),
        "BLOCK_C": _block(channels, 64),
        "num_warps": 4,
    }
    return constants, triton.cdiv(size, block), triton.cdiv(channels, constants["BLOCK_C"])


def _block(size: int, limit: int) -> int:
    """A power of two for the matrix units: 16 at least."""
    return min(limit, max(16, triton.next_power_of_2(size)))


def _without(constants: dict, name: str) -> dict:
    return {key: value for key, value in constants.items() if key != name}
