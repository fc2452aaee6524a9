"""RoIAlign on the GPU: a program takes one bin of one box, its lanes are channels.

Maps, pooled maps and their gradients have the channels last, so that each tap of a sample is one contiguous
read; maps that are not are copied, which costs less than scattered reads. The samples are at the very places
of the portable form: products and sums are rounded one by one (`enable_fp_fusion=False`), for a place that
crosses the border of the map's surroundings makes a sample vanish.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pointsuite.engine.backends import device_of

from . import wide


@triton.jit
def _divide(x, y):
    if x.dtype == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)  # the plain one is approximate in float32


@triton.jit
def _span(low, high, SCALE, BINS, PLACE: tl.constexpr, RATIO: tl.constexpr, ALIGNED: tl.constexpr):
    """Of a box's side: where it starts on the map, how long it is, and a bin's number of samples along it."""
    scale = tl.full((), SCALE, PLACE)
    shift: tl.constexpr = 0.5 if ALIGNED else 0.0
    start = low.to(PLACE) * scale - shift
    length = high.to(PLACE) * scale - shift - start
    if not ALIGNED:
        length = tl.maximum(length, 1)
    if RATIO > 0:
        samples = RATIO
    else:
        samples = tl.ceil(_divide(length, BINS.to(PLACE))).to(tl.int32)
    return start, length, samples


@triton.jit
def _place(span, slot, sample, BINS):
    """Where on the map a sample of a bin is, along one axis."""
    start, length, samples = span
    share = _divide((slot * samples + sample).to(length.dtype) + 0.5, (BINS * samples).to(length.dtype))
    return start + length * share


@triton.jit
def _edge_taps(place, SIZE):
    """The two pixels around a place on an axis, the share of the second, and whether the place counts."""
    near = (place >= -1) & (place <= SIZE)
    place = tl.minimum(tl.maximum(tl.where(near, place, 0), 0), SIZE - 1)
    low = place.to(tl.int32)
    return low, tl.minimum(low + 1, SIZE - 1), place - low, near


@triton.jit
def _cross_taps(y, x, C, W):
    """From two axes' taps: offsets of four pixels, their shares, and the channels that count: all or none."""
    top, bottom, down, near_y = y
    left, right, across, near_x = x
    top, bottom = top.to(tl.int64) * W, bottom.to(tl.int64) * W
    offsets = ((top + left) * C, (top + right) * C, (bottom + left) * C, (bottom + right) * C)
    shares = ((1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across)
    # A count, for a scalar truth value does not broadcast in Triton's interpreter.
    return offsets, shares, tl.where(near_y & near_x, C, 0)


@triton.jit
def _own_bin(rois, SCALE, BINS_Y, BINS_X, RATIO: tl.constexpr, ALIGNED: tl.constexpr):
    """The program's bin: its number, row and column, its box's image and spans along y and x."""
    PLACE: tl.constexpr = tl.float64 if rois.dtype.element_ty == tl.float64 else tl.float32
    program = tl.program_id(0)
    box = rois + (program // (BINS_Y * BINS_X)).to(tl.int64) * 5
    y = _span(tl.load(box + 2), tl.load(box + 4), SCALE, BINS_Y, PLACE, RATIO, ALIGNED)
    x = _span(tl.load(box + 1), tl.load(box + 3), SCALE, BINS_X, PLACE, RATIO, ALIGNED)
    image = tl.load(box).to(tl.int64)
    return program.to(tl.int64), program // BINS_X % BINS_Y, program % BINS_X, image, y, x


@triton.jit(do_not_specialize=["H", "W", "BINS_Y", "BINS_X"])
def _forward_kernel(
    maps,  # (B, H, W, C)
    rois,  # (R, 5)
    pooled,  # (R, BINS_Y, BINS_X, C)
    best_y,  # like pooled: the places of the largest samples, or None to average
    best_x,
    SCALE: tl.float64,
    C,
    H,
    W,
    BINS_Y,
    BINS_X,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    SUM: tl.constexpr = tl.float64 if maps.dtype.element_ty == tl.float64 else tl.float32
    number, row, column, image, span_y, span_x = _own_bin(rois, SCALE, BINS_Y, BINS_X, RATIO, ALIGNED)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = channel < C
    maps += image * H * W * C
    samples_y, samples_x = span_y[2], span_x[2]
    none = (samples_y <= 0) | (samples_x <= 0)
    if best_y is not None:
        result = tl.full((BLOCK_C,), float("-inf"), SUM)
        at_y = tl.full((BLOCK_C,), -2, span_y[0].dtype)
        at_x = at_y
    else:
        result = tl.zeros((BLOCK_C,), SUM)
    for i in range(samples_y):
        y = _place(span_y, row, i, BINS_Y)
        taps_y = _edge_taps(y, H)
        for j in range(samples_x):
            x = _place(span_x, column, j, BINS_X)
            offsets, shares, channels = _cross_taps(taps_y, _edge_taps(x, W), C, W)
            sample = tl.zeros((BLOCK_C,), SUM)
            for tap in tl.static_range(4):
                value = tl.load(maps + offsets[tap] + channel, mask=channel < channels, other=0).to(SUM)
                sample = tl.fma(value, shares[tap].to(SUM), sample)
            if best_y is not None:
                larger = sample > result
                result = tl.where(larger, sample, result)
                at_y = tl.where(larger, y, at_y)
                at_x = tl.where(larger, x, at_x)
            else:
                result += sample
    place = number * C + channel
    if best_y is not None:
        result = tl.where(none, 0, result)
        tl.store(best_y + place, at_y, mask=real)
        tl.store(best_x + place, at_x, mask=real)
    else:
        result *= 1 / tl.where(none, 1, samples_y * samples_x).to(SUM)
    tl.store(pooled + place, result, mask=real)


@triton.jit
def _add_taps(maps, taps, channel, grad):
    offsets, shares, channels = taps
    for tap in tl.static_range(4):
        share = shares[tap].to(grad.dtype)
        tl.atomic_add(maps + offsets[tap] + channel, grad * share, mask=channel < channels, sem="relaxed")


@triton.jit(do_not_specialize=["H", "W", "BINS_Y", "BINS_X"])
def _backward_kernel(
    grad_maps,  # (B, H, W, C), zeros to add to
    rois,  # (R, 5)
    grad,  # (R, BINS_Y, BINS_X, C)
    best_y,  # like grad: the places of the largest samples, or None for the gradient of averages
    best_x,
    SCALE: tl.float64,
    C,
    H,
    W,
    BINS_Y,
    BINS_X,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    number, row, column, image, span_y, span_x = _own_bin(rois, SCALE, BINS_Y, BINS_X, RATIO, ALIGNED)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = channel < C
    grad_maps += image * H * W * C
    place = number * C + channel
    own = tl.load(grad + place, mask=real, other=0).to(grad_maps.dtype.element_ty)
    if best_y is not None:
        y = tl.load(best_y + place, mask=real, other=-2).to(own.dtype)
        x = tl.load(best_x + place, mask=real, other=-2).to(own.dtype)
        _add_taps(grad_maps, _cross_taps(_edge_taps(y, H), _edge_taps(x, W), C, W), channel, own)
    else:
        samples_y, samples_x = span_y[2], span_x[2]
        own *= 1 / tl.maximum(samples_y * samples_x, 1).to(own.dtype)
        for i in range(samples_y):
            taps_y = _edge_taps(_place(span_y, row, i, BINS_Y), H)
            for j in range(samples_x):
                taps_x = _edge_taps(_place(span_x, column, j, BINS_X), W)
                _add_taps(grad_maps, _cross_taps(taps_y, taps_x, C, W), channel, own)


def forward(
    input: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: str,
    aligned: bool,
) -> tuple[Tensor, ...]:
    """Like :func:`dense.ops.roi_align`; with "max" also the places y and x of the samples, -2 without any."""
    pooled = input.new_empty(len(rois), *size, input.shape[1])
    places = ()
    if pool_mode == "max":
        places = tuple(torch.empty_like(pooled, dtype=wide(rois.dtype)) for _ in range(2))
    maps = input.permute(0, 2, 3, 1).contiguous()
    _launch(_forward_kernel, maps, rois, pooled, places, spatial_scale, sampling_ratio, aligned)
    return tuple(t.permute(0, 3, 1, 2) for t in (pooled, *places))


def backward(
    grad_output: Tensor,
    rois: Tensor,
    input_shape: tuple[int, ...],
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: str,
    aligned: bool,
    *places: Tensor,
) -> Tensor:
    """Gradient (B, C, H, W) of the input, dtype of grad_output; places: what "max" returned besides."""
    batch, channels, height, width = input_shape
    grad, *places = (t.permute(0, 2, 3, 1).contiguous() for t in (grad_output, *places))
    maps = grad.new_zeros(batch, height, width, channels, dtype=wide(grad.dtype))
    _launch(_backward_kernel, maps, rois, grad, places, spatial_scale, sampling_ratio, aligned)
    return maps.to(grad.dtype).permute(0, 3, 1, 2)


def _launch(kernel, maps, rois, pooled, places, spatial_scale, sampling_ratio, aligned):
    _, height, width, channels = maps.shape
    constants = block_constants(channels)
    grid = (pooled[..., 0].numel(), triton.cdiv(channels, constants["BLOCK_C"]))
    if not pooled.numel():
        return
    with device_of(maps):
        kernel[grid](
            maps,
            rois.contiguous(),
            pooled,
            *(places or (None, None)),
            float(spatial_scale),
            channels,
            height,
            width,
            *pooled.shape[1:3],
            RATIO=max(0, sampling_ratio),
            ALIGNED=aligned,
            **constants,
        )


def block_constants(channels: int) -> dict:
    """One warp a program and up to eight channels a lane: all lanes compute the places of the samples."""
    return {
        "BLOCK_C": min(256, triton.next_power_of_2(max(1, channels))),
        "num_warps": 1,
        "enable_fp_fusion": False,
    }
