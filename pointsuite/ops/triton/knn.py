"""Exact k nearest neighbours on the GPU, without a distance matrix.

One program serves a block of queries and reads the points in tiles of C columns, twice. The first reading
keeps the smallest distance in each column; a bound that K column minima reach is a bound for the K-th
neighbour, and in a cloud of any size in random order only C ln(C / (C - K)), little more than K, points
lie within. The second reading writes the indices of these few into a short buffer; the buffer is sorted
into the list of the best K. Where the bound is poor (the points' order may conspire) the buffer fills up
and is emptied more often: slower, and just as exact. All comparisons are of the distances' bit patterns:
non-negative floats are ordered as the integers that they are stored as.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import device_of
from .sorting import keep_smallest, sort_pairs


@triton.jit
def _distance_bits(qx, qy, qz, points, size, index, real, INFINITY: tl.constexpr, BITS: tl.constexpr):
    """Squared distances to the points at `index` of a (3, size) cloud, as integers; infinity if none."""
    x = qx - tl.load(points + index, mask=real, other=0)
    y = qy - tl.load(points + size + index, mask=real, other=0)
    z = qz - tl.load(points + size + size + index, mask=real, other=0)
    return tl.where(real, ((x * x + y * y) + z * z).to(BITS, bitcast=True), INFINITY)


@triton.jit
def _absorb(
    best,
    best_index,
    buffer,
    count,
    qx,
    qy,
    qz,
    points,
    size,
    LOG_S: tl.constexpr,
    LOG_K: tl.constexpr,
    INFINITY: tl.constexpr,
    BITS: tl.constexpr,
):
    """Merge the points listed in the buffer, `count` a row, into the sorted lists of the best."""
    slot = tl.arange(0, 1 << LOG_K)[None, :]
    qx, qy, qz = qx[:, None], qy[:, None], qz[:, None]
    tl.debug_barrier()  # other threads of this program wrote the buffer
    for first in range(0, tl.max(count), 1 << LOG_K):
        real = first + slot < count[:, None]
        index = tl.load(buffer[:, None] + first + slot, mask=real, other=0)
        bits = _distance_bits(qx, qy, qz, points, size, index, real, INFINITY, BITS)
        bits, index = sort_pairs(bits, index, LOG_S, LOG_K, 1)
        best, best_index = keep_smallest(best, best_index, bits, index, LOG_S, LOG_K)
    tl.debug_barrier()  # and will write it again
    return best, best_index


# Points come in lines of one warp's width, and the kernel knows no alignment of them: all blocks then have
# one layout (a thread owns a lane of every line), and no value moves between threads but in scans and sorts.
@triton.jit(do_not_specialize=["S", "N", "K"], do_not_specialize_on_alignment=["points", "buffer"])
def _knn_kernel(
    query,  # (B, S, 3)
    points,  # (B, 3, N)
    counts,  # (B,) or None
    buffer,  # (programs * BLOCK_S, 32 * LINES) int32
    idx,  # (B, S, K)
    sqdist,  # (B, S, K)
    S,
    N,
    K,
    LOG_S: tl.constexpr,
    LOG_K: tl.constexpr,
    LINES: tl.constexpr,
    ROUNDS: tl.constexpr,
    INFINITY: tl.constexpr,
    BITS: tl.constexpr,
):
    BLOCK_S: tl.constexpr = 1 << LOG_S
    COLUMNS: tl.constexpr = LINES * 32
    program = tl.program_id(0)
    blocks = tl.cdiv(S, BLOCK_S)
    cloud = (program // blocks).to(tl.int64)
    row = (program % blocks) * BLOCK_S + tl.arange(0, BLOCK_S)
    inside = row < S
    row = cloud * S + row
    qx = tl.load(query + row * 3, mask=inside, other=0)
    qy = tl.load(query + row * 3 + 1, mask=inside, other=0)
    qz = tl.load(query + row * 3 + 2, mask=inside, other=0)
    tx, ty, tz = qx[:, None, None], qy[:, None, None], qz[:, None, None]
    points += cloud * 3 * N
    buffer += (program.to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)) * COLUMNS
    if counts is None:
        valid = N
    else:
        valid = tl.load(counts + cloud).to(tl.int32)
    column = tl.arange(0, LINES)[None, :, None] * 32 + tl.arange(0, 32)[None, None, :]
    slot = tl.arange(0, 1 << LOG_K)[None, :]

    nearest = tl.full((BLOCK_S, LINES, 32), INFINITY, BITS)
    for first in range(0, valid, COLUMNS):
        index = first + column
        bits = _distance_bits(tx, ty, tz, points, N, index, index < valid, INFINITY, BITS)
        nearest = tl.minimum(nearest, bits)

    # Bisect for a limit below which K column minima lie; the last few bits are not worth their rounds.
    low = tl.zeros((BLOCK_S,), BITS)
    high = tl.full((BLOCK_S,), INFINITY, BITS)
    for _ in range(ROUNDS):
        middle = low + ((high - low) >> 1)
        below = (nearest < middle[:, None, None]).to(tl.int32)
        enough = tl.sum(tl.sum(below, 1), 1) >= K
        low, high = tl.where(enough, low, middle), tl.where(enough, middle, high)
    limit = tl.where(inside, high, 0)

    best = tl.full((BLOCK_S, 1 << LOG_K), INFINITY, BITS)
    best_index = tl.zeros((BLOCK_S, 1 << LOG_K), tl.int32)
    count = tl.zeros((BLOCK_S,), tl.int32)
    for first in range(0, valid, COLUMNS):
        index = first + column
        bits = _distance_bits(tx, ty, tz, points, N, index, index < valid, INFINITY, BITS)
        keep = bits < limit[:, None, None]
        rank = tl.cumsum(keep.to(tl.int32), 1)  # among the lane's own; in registers
        mine = tl.sum(keep.to(tl.int32), 1)
        end = tl.cumsum(mine, 1)
        found = tl.max(end, 1)
        if tl.max(count + found) > COLUMNS:
            best, best_index = _absorb(
                best, best_index, buffer, count, qx, qy, qz, points, N, LOG_S, LOG_K, INFINITY, BITS
            )
            # A later point at the distance of the K-th best loses the tie, so the limit stays exclusive.
            limit = tl.minimum(limit, tl.sum(tl.where(slot == K - 1, best, 0), 1))
            count = tl.zeros((BLOCK_S,), tl.int32)
        place = (count[:, None] + end - mine)[:, None, :] + rank - 1
        tl.store(buffer[:, None, None] + place, tl.broadcast_to(index, place.shape), mask=keep)
        count += found
    best, best_index = _absorb(
        best, best_index, buffer, count, qx, qy, qz, points, N, LOG_S, LOG_K, INFINITY, BITS
    )

    out = row[:, None] * K + slot
    wanted = inside[:, None] & (slot < K)
    tl.store(idx + out, best_index.to(tl.int64), mask=wanted)
    tl.store(sqdist + out, best.to(sqdist.dtype.element_ty, bitcast=True), mask=wanted)


MAX_K = 128  # beyond, the lists no longer fit one warp's registers


def knn(query: Tensor, points: Tensor, k: int, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Like :func:`pointsuite.ops.knn`, for k <= MAX_K.

    Where a cloud holds fewer than `k` points, spare slots hold index 0 at an infinite distance.
    """
    if k > MAX_K:
        raise ValueError(f"backend 'triton' wants k <= {MAX_K}, found {k}")
    batch, size = query.shape[:2]
    idx = query.new_empty((batch, size, k), dtype=torch.int64)
    sqdist = query.new_empty((batch, size, k))
    constants = knn_constants(k, query.dtype)
    block = 1 << constants["LOG_S"]
    programs = batch * triton.cdiv(size, block)
    if not programs:
        return idx, sqdist
    buffer = query.new_empty((programs * block, 32 * constants["LINES"]), dtype=torch.int32)
    planes = points.transpose(1, 2).contiguous()
    with device_of(points):
        _knn_kernel[(programs,)](
            query, planes, counts, buffer, idx, sqdist, size, points.shape[1], k, **constants
        )
    return idx, sqdist


def knn_constants(k: int, dtype: torch.dtype) -> dict:
    """One warp a program; tiles of 512 distances (256 of float64), for 16 warps a multiprocessor."""
    double = dtype == torch.float64
    log_k = max(5, (k - 1).bit_length())
    return {
        "LOG_S": max(0, (6 if double else 7) - log_k),
        "LOG_K": log_k,
        "LINES": (4 << log_k) // 32,
        "ROUNDS": 15 if double else 12,  # the exponent's bits and four more
        "INFINITY": 0x7FF0 << 48 if double else 0x7F80 << 16,
        "BITS": tl.int64 if double else tl.int32,
        "num_warps": 1,
        "enable_fp_fusion": False,
    }
