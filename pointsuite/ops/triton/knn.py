"""Exact k nearest neighbours on the GPU, without a distance matrix.

One program serves a block of queries and reads the points in tiles of C columns, twice. The first reading
keeps the smallest distance in each column; a bound that K column minima reach is a bound for the K-th
neighbour, and in a cloud of any size in random order only C ln(C / (C - K)), little more than K, points
lie within. The second reading writes the indices of these few into a short buffer; the buffer is sorted
into the list of the best K. Where the bound is poor (the points' order may conspire) the buffer fills up
and is emptied more often: slower, and just as exact. All comparisons are of the distances' bit patterns:
non-negative floats are ordered as the integers that they are stored as.

Large clouds are searched instead: points are sorted along a space-filling curve and boxed by 32, the boxes
by 32, and those by 32 again. A program serves one query. The points around the query's own place on the curve
give a bound for the K-th neighbour; the rest is a walk through the boxes that lie within, 32 boxes or points
at a time, into the same short buffer. Whatever the points' order, the answer is exact.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...engine.backends import device_of
from .boxes import box_distance, curve_codes, leaf_boxes, outer_boxes, sort_cloud
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
    names,
    LOG_S: tl.constexpr,
    LOG_K: tl.constexpr,
    INFINITY: tl.constexpr,
    BITS: tl.constexpr,
):
    """Merge the points listed in the buffer, `count` a row, into the sorted lists of the best.

    `names` are their indices, None where the buffer holds these.
    """
    slot = tl.arange(0, 1 << LOG_K)[None, :]
    qx, qy, qz = qx[:, None], qy[:, None], qz[:, None]
    tl.debug_barrier()  # other threads of this program wrote the buffer
    for first in range(0, tl.max(count), 1 << LOG_K):
        real = first + slot < count[:, None]
        index = tl.load(buffer[:, None] + first + slot, mask=real, other=0)
        bits = _distance_bits(qx, qy, qz, points, size, index, real, INFINITY, BITS)
        if names is not None:
            index = tl.load(names + index, mask=real, other=0)
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
                best, best_index, buffer, count, qx, qy, qz, points, N, None, LOG_S, LOG_K, INFINITY, BITS
            )
            # A later point at the distance of the K-th best loses the tie, so the limit stays exclusive.
            limit = tl.minimum(limit, tl.sum(tl.where(slot == K - 1, best, 0), 1))
            count = tl.zeros((BLOCK_S,), tl.int32)
        place = (count[:, None] + end - mine)[:, None, :] + rank - 1
        tl.store(buffer[:, None, None] + place, tl.broadcast_to(index, place.shape), mask=keep)
        count += found
    best, best_index = _absorb(
        best, best_index, buffer, count, qx, qy, qz, points, N, None, LOG_S, LOG_K, INFINITY, BITS
    )

    out = row[:, None] * K + slot
    wanted = inside[:, None] & (slot < K)
    tl.store(idx + out, best_index.to(tl.int64), mask=wanted)
    tl.store(sqdist + out, best.to(sqdist.dtype.element_ty, bitcast=True), mask=wanted)


@triton.jit
def _pop(hits, lane):
    """The first of the lanes that are set, and the others."""
    first = tl.min(tl.where(hits, lane, 32), 0)
    return first, hits & (lane != first)


@triton.jit(do_not_specialize=["FIRST", "S", "M", "N", "K"])
def _search_kernel(
    query,  # (B, S, 3)
    turns,  # (B, S) int64: the queries along the curve
    places,  # (B, S) int64: where on the curve each of these is
    planes,  # (B, 3, M), sorted
    names,  # (B, M) int32
    leaves,  # (B, 6, M / 32)
    nodes,  # (B, 6, M / 32**2)
    roots,  # (B, 6, M / 32**3)
    counts,  # (B,) or None
    buffer,  # (programs, 32 * LINES) int32
    idx,  # (B, S, K)
    sqdist,  # (B, S, K)
    FIRST,  # turn of the first program
    S,
    M,
    N,
    K,
    LOG_K: tl.constexpr,
    LINES: tl.constexpr,
    ROUNDS: tl.constexpr,
    INFINITY: tl.constexpr,
    BITS: tl.constexpr,
):
    COLUMNS: tl.constexpr = LINES * 32
    program = tl.program_id(0)
    turn = FIRST + program.to(tl.int64)
    cloud = turn // S
    row = cloud * S + tl.load(turns + turn)
    qx, qy, qz = tl.load(query + row * 3), tl.load(query + row * 3 + 1), tl.load(query + row * 3 + 2)
    one = tl.zeros((1,), qx.dtype)
    tx, ty, tz = one + qx, one + qy, one + qz  # lists of one row, for the sorting network
    planes += cloud * 3 * M
    names += cloud * M
    leaves += cloud * 6 * (M // 32)
    nodes += cloud * 6 * (M // 1024)
    roots += cloud * 6 * (M // 32768)
    buffer += program.to(tl.int64) * COLUMNS + tl.zeros((1,), tl.int64)
    if counts is None:
        valid = N
    else:
        valid = tl.load(counts + cloud).to(tl.int32)
    lane = tl.arange(0, 32)
    slot = tl.arange(0, 1 << LOG_K)[None, :]

    # Bisect for the K-th smallest distance to the points around; infinity where there are not as many.
    start = tl.maximum(tl.minimum(tl.load(places + turn).to(tl.int32) - COLUMNS // 2, valid - COLUMNS), 0)
    around = start + tl.arange(0, COLUMNS)
    near = _distance_bits(qx, qy, qz, planes, M, around, around < valid, INFINITY, BITS)
    low = tl.zeros((1,), BITS)
    limit = tl.full((1,), INFINITY, BITS)
    for _ in range(ROUNDS):
        middle = low + ((limit - low) >> 1)
        enough = tl.sum((near[None, :] <= middle[:, None]).to(tl.int32), 1) >= K
        low, limit = tl.where(enough, low, middle), tl.where(enough, middle, limit)
    limit = tl.max(limit, 0)
    last = N  # of points at the limit, those from this index on are not wanted

    best = tl.full((1, 1 << LOG_K), INFINITY, BITS)
    best_index = tl.zeros((1, 1 << LOG_K), tl.int32)
    count = tl.zeros((1,), tl.int32)
    for first in range(0, M // 32768, 32):
        root = tl.minimum(first + lane, M // 32768 - 1)
        bits = box_distance(roots, M // 32768, root, qx, qy, qz).to(BITS, bitcast=True)
        in_roots = (bits <= limit) & (bits < INFINITY) & (first + lane < M // 32768)
        while tl.max(in_roots.to(tl.int32), 0) > 0:
            chosen, in_roots = _pop(in_roots, lane)
            node = (first + chosen) * 32
            bits = box_distance(nodes, M // 1024, node + lane, qx, qy, qz).to(BITS, bitcast=True)
            in_nodes = (bits <= limit) & (bits < INFINITY)
            while tl.max(in_nodes.to(tl.int32), 0) > 0:
                chosen, in_nodes = _pop(in_nodes, lane)
                leaf = (node + chosen) * 32
                bits = box_distance(leaves, M // 32, leaf + lane, qx, qy, qz).to(BITS, bitcast=True)
                in_leaves = (bits <= limit) & (bits < INFINITY)
                while tl.max(in_leaves.to(tl.int32), 0) > 0:
                    chosen, in_leaves = _pop(in_leaves, lane)
                    index = (leaf + chosen) * 32 + lane
                    bits = _distance_bits(qx, qy, qz, planes, M, index, index < valid, INFINITY, BITS)
                    # A later point on the curve may win a tie, so a point at the limit may still count.
                    name = tl.load(names + index)
                    keep = (bits < limit) | ((bits == limit) & (name < last) & (bits < INFINITY))
                    rank = tl.cumsum(keep.to(tl.int32), 0)
                    found = tl.max(rank, 0)
                    if tl.max(count, 0) + found > COLUMNS:
                        best, best_index = _absorb(
                            best,
                            best_index,
                            buffer,
                            count,
                            tx,
                            ty,
                            tz,
                            planes,
                            M,
                            names,
                            0,
                            LOG_K,
                            INFINITY,
                            BITS,
                        )
                        count = tl.zeros((1,), tl.int32)
                        worst = tl.sum(tl.sum(tl.where(slot == K - 1, best, 0), 1), 0)
                        worst_index = tl.sum(tl.sum(tl.where(slot == K - 1, best_index, 0), 1), 0)
                        last = tl.where(worst <= limit, worst_index, last)
                        limit = tl.minimum(limit, worst)
                    tl.store(buffer + tl.max(count, 0) + rank - 1, index, mask=keep)
                    count += found
    best, best_index = _absorb(
        best, best_index, buffer, count, tx, ty, tz, planes, M, names, 0, LOG_K, INFINITY, BITS
    )
    out = row * K + slot
    tl.store(idx + out, best_index.to(tl.int64), mask=slot < K)
    tl.store(sqdist + out, best.to(sqdist.dtype.element_ty, bitcast=True), mask=slot < K)


# From this size and these many distances on, sorting pays. Estimated from the work, not measured.
SEARCH_POINTS, SEARCH_DISTANCES = 30_000, 2**28
SEARCH_LAUNCH = 2**16  # queries a launch, so that their buffers stay in the L2 cache
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
    number = points.shape[1]
    if number >= SEARCH_POINTS and size * number >= SEARCH_DISTANCES:
        _search(query, points, k, counts, idx, sqdist)
        return idx, sqdist
    constants = knn_constants(k, query.dtype)
    block = 1 << constants["LOG_S"]
    programs = batch * triton.cdiv(size, block)
    if not programs:
        return idx, sqdist
    buffer = query.new_empty((programs * block, 32 * constants["LINES"]), dtype=torch.int32)
    planes = points.transpose(1, 2).contiguous()
    with device_of(points):
        _knn_kernel[(programs,)](query, planes, counts, buffer, idx, sqdist, size, number, k, **constants)
    return idx, sqdist


def _search(
    query: Tensor, points: Tensor, k: int, counts: Tensor | None, idx: Tensor, sqdist: Tensor
) -> None:
    """Fill `idx` and `sqdist` by walking boxes."""
    batch, size = query.shape[:2]
    number = points.shape[1]
    cloud = sort_cloud(points, counts, 32**3)
    if query.data_ptr() == points.data_ptr() and query.shape == points.shape and counts is None:
        turns = cloud.order[:, :number].long()
        places = torch.arange(number, device=points.device).expand(batch, -1).contiguous()
    else:
        codes, turns = curve_codes(query, cloud.frame).sort(dim=1)
        places = torch.searchsorted(cloud.codes, codes)
    leaves = leaf_boxes(cloud.planes, counts, number, 32)
    nodes = outer_boxes(leaves, 32)
    roots = outer_boxes(nodes, 32)
    constants = search_constants(k, query.dtype)
    launch = min(SEARCH_LAUNCH, batch * size)
    buffer = query.new_empty((launch, 32 * constants["LINES"]), dtype=torch.int32)
    with device_of(points):
        for first in range(0, batch * size, launch):
            _search_kernel[(min(launch, batch * size - first),)](
                query,
                turns.contiguous(),
                places,
                cloud.planes,
                cloud.order,
                leaves,
                nodes,
                roots,
                counts,
                buffer,
                idx,
                sqdist,
                first,
                size,
                cloud.planes.shape[-1],
                number,
                k,
                **constants,
            )


def search_constants(k: int, dtype: torch.dtype) -> dict:
    """As for the scan, but one query a program and a bound of more bits."""
    constants = knn_constants(k, dtype)
    del constants["LOG_S"]
    return constants | {"ROUNDS": constants["ROUNDS"] + 4}


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
