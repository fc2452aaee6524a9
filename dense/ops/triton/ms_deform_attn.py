"""Multi-scale deformable attention on the GPU.

Forward, a program takes some rows, a row being one head of one query: for each point of each level it gathers
four rows of D values, which are contiguous, and keeps the sum in registers. Backward, it takes some points,
whichever query or level they are of: their locations and weights, and the gradients of both, are contiguous
too, and as there is no loop all of a program's loads are under way before its atomic additions.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pointsuite.engine.backends import device_of

from . import wide


@triton.jit
def _axis_taps(location, size):
    """The pixel before each location, how far past its centre, and whether it and the next are on the map."""
    place = location * size - 0.5
    near = (place > -1) & (place < size)  # false for NaN
    place = tl.where(near, place, 0)
    low = tl.floor(place)
    share = place - low
    low = low.to(tl.int32)
    return low, share, near & (low >= 0), near & (low < size - 1)


@triton.jit
def _corners(locations, place, real, height, width, start, HEADS: tl.constexpr, SUM: tl.constexpr):
    """The four pixels around each location, as rows of values counted from the first of an image and head.

    Returns the upper left row, the step down, the shares of right and down, and which of the pixels upper
    left, upper right, lower left and lower right are on the map.
    """
    x = tl.load(locations + place * 2, mask=real, other=0).to(SUM)
    y = tl.load(locations + place * 2 + 1, mask=real, other=0).to(SUM)
    left, across, on_left, on_right = _axis_taps(x, width)
    top, down, on_top, on_bottom = _axis_taps(y, height)
    on_top, on_bottom = on_top & real, on_bottom & real
    first = (start + top.to(tl.int64) * width + left) * HEADS
    on_map = (on_top & on_left, on_top & on_right, on_bottom & on_left, on_bottom & on_right)
    return first, width.to(tl.int64) * HEADS, across, down, on_map


@triton.jit
def _load_rows(base, there, channel, D: tl.constexpr, SUM: tl.constexpr):
    """Rows of D numbers, zeros where not `there`."""
    mask = there[:, None] & (channel < D)[None, :]
    return tl.load(base[:, None] + channel[None, :], mask=mask, other=0).to(SUM)


@triton.jit
def _add_rows(base, there, channel, numbers, D: tl.constexpr):
    mask = there[:, None] & (channel < D)[None, :]
    tl.atomic_add(base[:, None] + channel[None, :], numbers, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=["S", "ROWS"])
def _forward_kernel(
    value,  # (B, S, HEADS, D)
    shapes,  # (LEVELS, 2)
    starts,  # (LEVELS,)
    locations,  # (B, Q, HEADS, LEVELS, POINTS, 2)
    weights,  # (B, Q, HEADS, LEVELS, POINTS)
    output,  # (B, Q, HEADS, D)
    S,
    ROWS,  # Q * HEADS
    HEADS: tl.constexpr,
    D: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    SUM: tl.constexpr = tl.float64 if value.dtype.element_ty == tl.float64 else tl.float32
    blocks = tl.cdiv(ROWS, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = row < ROWS
    base = value + (image * S * HEADS + row % HEADS) * D
    row += image * ROWS
    channel = tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK, BLOCK_D), SUM)
    for level in range(LEVELS):
        height = tl.load(shapes + level * 2).to(tl.int32)
        width = tl.load(shapes + level * 2 + 1).to(tl.int32)
        start = tl.load(starts + level).to(tl.int64)
        for point in tl.range(POINTS, loop_unroll_factor=4):  # sixteen gathers under way
            place = (row * LEVELS + level) * POINTS + point
            weight = tl.load(weights + place, mask=real, other=0).to(SUM)
            first, step_y, across, down, on_map = _corners(
                locations, place, real, height, width, start, HEADS, SUM
            )
            above = base + first * D
            below = above + step_y * D
            step_x: tl.constexpr = HEADS * D
            upper, lower = weight * (1 - down), weight * down
            left, right = 1 - across, across
            total += _load_rows(above, on_map[0], channel, D, SUM) * (upper * left)[:, None]
            total += _load_rows(above + step_x, on_map[1], channel, D, SUM) * (upper * right)[:, None]
            total += _load_rows(below, on_map[2], channel, D, SUM) * (lower * left)[:, None]
            total += _load_rows(below + step_x, on_map[3], channel, D, SUM) * (lower * right)[:, None]
    mask = real[:, None] & (channel < D)[None, :]
    tl.store(output + row[:, None] * D + channel[None, :], total, mask=mask)


@triton.jit(do_not_specialize=["S", "ENTRIES"])
def _backward_kernel(
    grad_output,  # (B, Q, HEADS, D)
    value,  # (B, S, HEADS, D)
    shapes,  # (LEVELS, 2)
    starts,  # (LEVELS,)
    locations,  # (B, Q, HEADS, LEVELS, POINTS, 2)
    weights,  # (B, Q, HEADS, LEVELS, POINTS)
    grad_value,  # (B, S, HEADS, D), zeros to add to
    grad_locations,  # (B, Q, HEADS, LEVELS, POINTS, 2)
    grad_weights,  # (B, Q, HEADS, LEVELS, POINTS)
    S,
    ENTRIES,  # Q * HEADS * LEVELS * POINTS
    HEADS: tl.constexpr,
    D: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    SUM: tl.constexpr = tl.float64 if value.dtype.element_ty == tl.float64 else tl.float32
    blocks = tl.cdiv(ENTRIES, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    place = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = place < ENTRIES
    place += image * ENTRIES
    level = place // POINTS % LEVELS
    row = place // (LEVELS * POINTS)
    channel = tl.arange(0, BLOCK_D)

    height = tl.load(shapes + level * 2).to(tl.int32)
    width = tl.load(shapes + level * 2 + 1).to(tl.int32)
    start = tl.load(starts + level).to(tl.int64)
    weight = tl.load(weights + place, mask=real, other=0).to(SUM)
    first, step_y, across, down, on_map = _corners(locations, place, real, height, width, start, HEADS, SUM)
    above = (image * S * HEADS + row % HEADS + first) * D
    below = above + step_y * D
    step_x: tl.constexpr = HEADS * D
    grad = _load_rows(grad_output + row * D, real, channel, D, SUM)

    # Inner products of the gradient with the values of each pixel.
    upper_left = tl.sum(_load_rows(value + above, on_map[0], channel, D, SUM) * grad, 1)
    upper_right = tl.sum(_load_rows(value + above + step_x, on_map[1], channel, D, SUM) * grad, 1)
    lower_left = tl.sum(_load_rows(value + below, on_map[2], channel, D, SUM) * grad, 1)
    lower_right = tl.sum(_load_rows(value + below + step_x, on_map[3], channel, D, SUM) * grad, 1)
    upper = upper_left + across * (upper_right - upper_left)
    lower = lower_left + across * (lower_right - lower_left)
    along_x = (1 - down) * (upper_right - upper_left) + down * (lower_right - lower_left)
    tl.store(grad_weights + place, upper + down * (lower - upper), mask=real)
    tl.store(grad_locations + place * 2, weight * along_x * width, mask=real)
    tl.store(grad_locations + place * 2 + 1, weight * (lower - upper) * height, mask=real)

    upper, lower = weight * (1 - down), weight * down
    left, right = 1 - across, across
    _add_rows(grad_value + above, on_map[0], channel, grad * (upper * left)[:, None], D)
    _add_rows(grad_value + above + step_x, on_map[1], channel, grad * (upper * right)[:, None], D)
    _add_rows(grad_value + below, on_map[2], channel, grad * (lower * left)[:, None], D)
    _add_rows(grad_value + below + step_x, on_map[3], channel, grad * (lower * right)[:, None], D)


def forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Like :func:`dense.ops.ms_deform_attn`."""
    batch, total, heads, dims = value.shape
    queries = sampling_locations.shape[1]
    output = value.new_empty(batch, queries, heads * dims)
    if not output.numel():
        return output
    constants = block_constants(value, sampling_locations)
    rows = queries * heads
    arguments = (value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    with device_of(value):
        _forward_kernel[(batch * triton.cdiv(rows, constants["BLOCK"]),)](
            *(t.contiguous() for t in arguments), output, total, rows, **constants
        )
    return output


def backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, sampling_locations and attention_weights, in their dtypes."""
    batch, total = value.shape[:2]
    like = {"memory_format": torch.contiguous_format}
    grad_value = torch.zeros_like(value, dtype=wide(value.dtype), **like)
    grad_locations = torch.empty_like(sampling_locations, **like)
    grad_weights = torch.empty_like(attention_weights, **like)
    if grad_weights.numel():
        constants = block_constants(value, sampling_locations)
        entries = attention_weights[0].numel()
        arguments = (grad_output, value, spatial_shapes, level_start_index)
        arguments += (sampling_locations, attention_weights)
        with device_of(value):
            _backward_kernel[(batch * triton.cdiv(entries, constants["BLOCK"]),)](
                *(t.contiguous() for t in arguments),
                grad_value,
                grad_locations,
                grad_weights,
                total,
                entries,
                **constants,
            )
    return grad_value.to(value.dtype), grad_locations, grad_weights


def block_constants(value: Tensor, sampling_locations: Tensor) -> dict:
    """The kernels' constants: tiles of which each of 128 threads reads sixteen bytes, its widest read.

    Larger tiles would hold more reads under way, but leave processors without work at a decoder's few hundred
    queries.
    """
    _, _, heads, levels, points, _ = sampling_locations.shape
    dims = value.shape[-1]
    width = triton.next_power_of_2(max(1, dims))
    return {
        "HEADS": heads,
        "D": dims,
        "LEVELS": levels,
        "POINTS": points,
        "BLOCK": max(1, 2048 // (width * value.element_size())),
        "BLOCK_D": width,
        "num_warps": 4,
    }
