"""Farthest point sampling on the GPU: one program a cloud takes all of its steps.

Small clouds are kept in registers; larger ones are read anew in every step. Of large ones a step reads
little: their points are sorted along a space-filling curve and boxed, the boxes are kept in registers, each
with the largest distance to the chosen among its points, and only boxes that are nearer to the new choice
than that can change. One program is enough for this, so no program ever waits for another.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...engine.backends import device_of
from .boxes import leaf_boxes, sort_cloud

RESIDENT_BYTES = 32768  # of one value a point: clouds whose values fit are kept in registers
TILE = 4096  # points a step of larger clouds reads at once
# From these sizes on sorting pays (estimated from the work, not measured); above the last, boxes do not fit.
BOXED_POINTS, BOXED_SAMPLES, BOXED_LIMIT = 32768, 64, 2**24


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


@triton.jit(do_not_specialize=["M", "S"])
def _boxed_kernel(
    points,  # (B, N, 3)
    start,  # (B,)
    planes,  # (B, 3, M), sorted
    names,  # (B, M) int32: the sorted points' indices; N past the last
    boxes,  # (B, 6, M / LEAF)
    tops,  # (B, M / LEAF): infinity, -1 where a box is empty
    firsts,  # (B, M / LEAF) int32: the lowest index in each box
    nearest,  # (B, M): infinity, -1 past the last: squared distances to the chosen
    idx,  # (B, S)
    N,
    M,
    S,
    LEAF: tl.constexpr,
    LEAVES: tl.constexpr,
):
    cloud = tl.program_id(0).to(tl.int64)
    number = M // LEAF
    points += cloud * N * 3
    planes += cloud * 3 * M
    names += cloud * M
    nearest += cloud * M
    boxes += cloud * 6 * number
    idx += cloud * S
    leaf = tl.arange(0, LEAVES)
    there = leaf < number
    low_x = tl.load(boxes + leaf, mask=there, other=0)
    low_y = tl.load(boxes + number + leaf, mask=there, other=0)
    low_z = tl.load(boxes + number * 2 + leaf, mask=there, other=0)
    high_x = tl.load(boxes + number * 3 + leaf, mask=there, other=0)
    high_y = tl.load(boxes + number * 4 + leaf, mask=there, other=0)
    high_z = tl.load(boxes + number * 5 + leaf, mask=there, other=0)
    top = tl.load(tops + cloud * number + leaf, mask=there, other=-1)  # the largest of `nearest` in a box
    where = tl.load(firsts + cloud * number + leaf, mask=there, other=N)  # the lowest index that has it
    chosen = tl.load(start + cloud)
    for i in range(S):
        tl.store(idx + i, chosen)
        px = tl.load(points + chosen * 3)
        py = tl.load(points + chosen * 3 + 1)
        pz = tl.load(points + chosen * 3 + 2)
        # By monotone rounding no larger than the distance to any point inside.
        x = tl.maximum(tl.maximum(low_x - px, px - high_x), 0)
        y = tl.maximum(tl.maximum(low_y - py, py - high_y), 0)
        z = tl.maximum(tl.maximum(low_z - pz, pz - high_z), 0)
        touched = (x * x + y * y) + z * z < top
        next_leaf = tl.min(tl.where(touched, leaf, LEAVES), 0)
        while next_leaf < LEAVES:
            place = next_leaf * LEAF + tl.arange(0, LEAF)
            dx = tl.load(planes + place) - px
            dy = tl.load(planes + M + place) - py
            dz = tl.load(planes + M * 2 + place) - pz
            distance = tl.minimum(tl.load(nearest + place), (dx * dx + dy * dy) + dz * dz)
            tl.store(nearest + place, distance)
            farthest = tl.max(distance, 0)
            first = tl.min(tl.where(distance == farthest, tl.load(names + place), N), 0)
            top = tl.where(leaf == next_leaf, farthest, top)
            where = tl.where(leaf == next_leaf, first, where)
            touched = touched & (leaf != next_leaf)
            next_leaf = tl.min(tl.where(touched, leaf, LEAVES), 0)
        tl.debug_barrier()  # a later step reads what other threads wrote
        chosen = tl.min(tl.where(top == tl.max(top, 0), where, N), 0).to(tl.int64)


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
        elif BOXED_POINTS <= size <= BOXED_LIMIT and num_samples >= BOXED_SAMPLES:
            _sample_boxes(points, num_samples, start, counts, idx)
        else:
            nearest = points.new_full((batch, size), float("inf"))
            _streamed_kernel[(batch,)](
                points, start, counts, nearest, idx, size, num_samples, **STREAMED_CONSTANTS
            )
    return idx


def _sample_boxes(
    points: Tensor, num_samples: int, start: Tensor, counts: Tensor | None, idx: Tensor
) -> None:
    batch, size = points.shape[:2]
    constants = boxed_constants(size)
    leaf = constants["LEAF"]
    planes, names, _, _ = sort_cloud(points, counts, leaf)
    real = torch.arange(planes.shape[-1], device=points.device) < (
        size if counts is None else counts[:, None]
    )
    real = real.expand(batch, -1)
    names = names.where(real, size)
    nearest = torch.where(real, torch.inf, -1.0).to(points.dtype)
    _boxed_kernel[(batch,)](
        points,
        start,
        planes,
        names,
        leaf_boxes(planes, counts, size, leaf),
        nearest[:, ::leaf].contiguous(),
        names.unflatten(1, (-1, leaf)).amin(-1),
        nearest,
        idx,
        size,
        planes.shape[-1],
        num_samples,
        **constants,
    )


def boxed_constants(size: int) -> dict:
    """About as many boxes as points in each: a step looks at all of the ones and at some of the others."""
    leaf = max(256, triton.next_power_of_2(int(size**0.5)))
    leaves = triton.next_power_of_2(triton.cdiv(size, leaf))
    return {"LEAF": leaf, "LEAVES": leaves, "num_warps": max(8, leaf // 256), "enable_fp_fusion": False}


def resident_constants(size: int) -> dict:
    """Eight points a thread: few enough for registers, enough to hide the search for the maximum."""
    block = max(32, triton.next_power_of_2(size))
    return {"BLOCK_N": block, "num_warps": min(max(block // 256, 1), 32), "enable_fp_fusion": False}


STREAMED_CONSTANTS = {"BLOCK_N": TILE, "num_warps": 32, "enable_fp_fusion": False}
