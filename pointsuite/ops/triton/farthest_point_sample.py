"""Farthest point sampling on the GPU: one program a cloud takes all of its steps."""

import triton
import triton.language as tl
from torch import Tensor

from . import device_of

RESIDENT_BYTES = 32768  # of one value a point: clouds whose values fit are kept in registers
TILE = 4096  # points a step of larger clouds reads at once


@triton.jit
def _squared_distance(x, y, z, points, index):
    x -= tl.load(points + index * 3)
    y -= tl.load(points + index * 3 + 1)
    z -= tl.load(points + index * 3 + 2)
    return (x * x + y * y) + z * z


@triton.jit(do_not_specialize=["N", "S"])
def _resident_kernel(
    points,  # (B, N, 3)
    start,  # (B,)
    counts,  # (B,) or None
    idx,  # (B, S)
    N,
    S,
    BLOCK_N: tl.constexpr,
):
    cloud = tl.program_id(0).to(tl.int64)
    points += cloud * N * 3
    idx += cloud * S
    if counts is None:
        valid = N
    else:
        valid = tl.load(counts + cloud).to(tl.int32)
    column = tl.arange(0, BLOCK_N)
    real = column < valid
    x = tl.load(points + column * 3, mask=real, other=0)
    y = tl.load(points + column * 3 + 1, mask=real, other=0)
    z = tl.load(points + column * 3 + 2, mask=real, other=0)
    nearest = tl.where(real, float("inf"), -1.0).to(x.dtype)  # squared distance to the chosen
    chosen = tl.load(start + cloud)
    for i in range(S):
        tl.store(idx + i, chosen)
        nearest = tl.minimum(nearest, _squared_distance(x, y, z, points, chosen))
        chosen = tl.argmax(nearest, 0).to(tl.int64)  # the first maximum


@triton.jit(do_not_specialize=["N", "S"])
def _streamed_kernel(
    points,  # (B, N, 3)
    start,  # (B,)
    counts,  # (B,) or None
    nearest,  # (B, N), infinity: squared distances to the chosen
    idx,  # (B, S)
    N,
    S,
    BLOCK_N: tl.constexpr,
):
    cloud = tl.program_id(0).to(tl.int64)
    points += cloud * N * 3
    nearest += cloud * N
    idx += cloud * S
    if counts is None:
        valid = N
    else:
        valid = tl.load(counts + cloud).to(tl.int32)
    column = tl.arange(0, BLOCK_N)
    chosen = tl.load(start + cloud)
    for i in range(S):
        tl.store(idx + i, chosen)
        farthest = tl.full((BLOCK_N,), -1.0, points.dtype.element_ty)
        where = column
        for first in range(0, valid, BLOCK_N):
            index = first + column
            real = index < valid
            place = points + index.to(tl.int64) * 3
            x = tl.load(place, mask=real, other=0)
            y = tl.load(place + 1, mask=real, other=0)
            z = tl.load(place + 2, mask=real, other=0)
            distance = tl.minimum(
                tl.load(nearest + index, mask=real, other=-1), _squared_distance(x, y, z, points, chosen)
            )
            tl.store(nearest + index, distance, mask=real)
            where = tl.where(distance > farthest, index, where)
            farthest = tl.maximum(farthest, distance)
        tl.debug_barrier()  # the next step reads what other threads wrote
        chosen = tl.min(tl.where(farthest == tl.max(farthest, 0), where, N), 0).to(tl.int64)


def farthest_point_sample(
    points: Tensor, num_samples: int, start: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Like :func:`pointsuite.ops.farthest_point_sample`; start (B,) int64."""
    batch, size = points.shape[:2]
    idx = start.new_empty(batch, num_samples)
    with device_of(points):
        if size * points.element_size() <= RESIDENT_BYTES:
            _resident_kernel[(batch,)](
                points, start, counts, idx, size, num_samples, **resident_constants(size)
            )
        else:
            nearest = points.new_full((batch, size), float("inf"))
            _streamed_kernel[(batch,)](
                points, start, counts, nearest, idx, size, num_samples, **STREAMED_CONSTANTS
            )
    return idx


def resident_constants(size: int) -> dict:
    """Eight points a thread: few enough for registers, enough to hide the search for the maximum."""
    block = max(32, triton.next_power_of_2(size))
    return {"BLOCK_N": block, "num_warps": min(max(block // 256, 1), 32), "enable_fp_fusion": False}


STREAMED_CONSTANTS = {"BLOCK_N": TILE, "num_warps": 32, "enable_fp_fusion": False}
