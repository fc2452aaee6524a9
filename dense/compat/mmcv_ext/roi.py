"""Pooling of upright boxes; maps are (B, C, H, W), boxes (R, 5): image, x1, y1, x2, y2 in the image."""

import torch
from torch import Tensor

from ...ops.roi_align import add_to_planes, axis_taps, check_rois, join_parts, sample_places
from ...ops.roi_align import roi_align_backward as align_backward
from ...ops.roi_align import roi_align_forward as align_forward
from ...ops.sampling import Taps, cross_taps, sum_rows, to_rows
from ._checks import check_shape
from ._gradients import fill_gradients

MODES = ("max", "avg")  # as mmcv numbers them


def roi_align_forward(
    input,
    rois,
    output,
    argmax_y,
    argmax_x,
    aligned_height,
    aligned_width,
    spatial_scale,
    sampling_ratio,
    pool_mode,
    aligned,
):
    size = (aligned_height, aligned_width)
    found = align_forward(input, rois, size, spatial_scale, sampling_ratio, MODES[pool_mode], aligned)
    for tensor, values in zip((output, argmax_y, argmax_x), found, strict=False):  # no places of averages
        tensor.copy_(values)


def roi_align_backward(
    grad_output,
    rois,
    argmax_y,
    argmax_x,
    grad_input,
    aligned_height,
    aligned_width,
    spatial_scale,
    sampling_ratio,
    pool_mode,
    aligned,
):
    mode = MODES[pool_mode]
    places = (argmax_y, argmax_x) if mode == "max" else ()
    arguments = (spatial_scale, sampling_ratio, mode, aligned, *places)
    grad_input.copy_(align_backward(grad_output, rois, grad_input.shape, *arguments))


def roi_pool_forward(input, rois, output, argmax, pooled_height, pooled_width, spatial_scale):
    """The largest pixel of each bin, whose edges are rounded outwards (Girshick, "Fast R-CNN", ICCV 2015).

    ``argmax`` int32 takes its place, y * W + x; bins without pixels give 0 and -1.
    """
    check_rois(input, rois, 5)
    height, width = input.shape[2:]
    rows = to_rows(input)
    boxes = (rois[:, 1:] if rois.dtype == torch.float64 else rois[:, 1:].float()) * spatial_scale
    start, length = boxes[:, :2], boxes[:, 2:] + spatial_scale - boxes[:, :2]  # (R, 2): x, y
    (x_from, x_to), (y_from, y_to) = (
        _bin_edges(start[:, axis], length[:, axis], bins, end)
        for axis, bins, end in ((0, pooled_width, width), (1, pooled_height, height))
    )  # (R, bins) each
    proper = (length > 0).all(1)[:, None, None]
    image = rois[:, 0].long()[:, None, None] * (height * width)
    best = rows.new_full((len(rois), pooled_height, pooled_width, rows.shape[1]), -torch.inf)
    place = torch.full_like(best, -1, dtype=torch.int64)
    for dy in range(_longest(y_from, y_to)):
        for dx in range(_longest(x_from, x_to)):
            y, x = (y_from + dy)[:, :, None], (x_from + dx)[:, None]
            inside = (y < y_to[:, :, None]) & (x < x_to[:, None]) & proper  # (R, h, w)
            pixel = y * width + x
            value = rows[torch.where(inside, image + pixel, 0)]
            larger = inside[..., None] & (value > best)
            best = torch.where(larger, value, best)
            place = torch.where(larger, pixel[..., None], place)
    output.copy_(torch.where(place < 0, 0, best).permute(0, 3, 1, 2))
    argmax.copy_(place.permute(0, 3, 1, 2))


def roi_pool_backward(grad_output, rois, argmax, grad_input, pooled_height, pooled_width, spatial_scale):
    grad = torch.where(argmax >= 0, grad_output, 0)
    pixel = argmax.clamp(min=0)[..., None]
    grad_input.copy_(add_to_planes(grad_input.shape, rois, pixel, grad[..., None]))


def _bin_edges(start, length, bins, end) -> tuple[Tensor, Tensor]:
    edges = torch.arange(bins + 1, device=start.device) * (length / bins)[:, None] + start[:, None]
    first, last = edges[:, :-1].floor(), edges[:, 1:].ceil()
    return first.clamp(0, end).long(), last.clamp(0, end).long()


def _longest(first: Tensor, last: Tensor) -> int:
    return int((last - first).max()) if first.numel() else 0


def deform_roi_pool_forward(
    input, rois, offset, output, pooled_height, pooled_width, spatial_scale, sampling_ratio, gamma
):
    """RoIAlign whose bins move by ``offset`` (R, 2, h, w), x then y, in ``gamma`` times the box's size.

    Source: Dai et al., "Deformable Convolutional Networks", ICCV 2017, section 2.2. No offsets: (0,).
    """
    size = (pooled_height, pooled_width)
    output.copy_(_deform_pool(input, offset, rois, size, spatial_scale, sampling_ratio, gamma))


def deform_roi_pool_backward(
    grad_output,
    input,
    rois,
    offset,
    grad_input,
    grad_offset,
    pooled_height,
    pooled_width,
    spatial_scale,
    sampling_ratio,
    gamma,
):
    size = (pooled_height, pooled_width)

    def run(x, o=offset):
        return _deform_pool(x, o, rois, size, spatial_scale, sampling_ratio, gamma)

    if offset.numel():
        fill_gradients(run, [input, offset], grad_output, [grad_input, grad_offset])
    else:
        fill_gradients(run, [input], grad_output, [grad_input])


def _deform_pool(input, offset, rois, size, spatial_scale, sampling_ratio, gamma):
    check_rois(input, rois, 5)
    if offset.numel():
        check_shape(offset, "offset", (len(rois), 2, *size))
    height, width = input.shape[2:]
    rows = to_rows(input)
    order, pooled = [], [rows[:0, None, None].expand(0, *size, -1)]
    for part, y, x in sample_places(rois, size, spatial_scale, sampling_ratio, aligned=True):
        count = y.shape[-1] * x.shape[-1]
        y, x = y[:, :, None], x[:, None]
        if offset.numel():
            extent = gamma * spatial_scale * (rois[part, 3:] - rois[part, 1:3])
            move_x, move_y = (offset[part] * extent[:, :, None, None])[..., None].unbind(1)  # (r, h, w, 1)
            y, x = y + move_y, x + move_x
        y_taps, x_taps = axis_taps(y, height, sampling_ratio), axis_taps(x, width, sampling_ratio)
        taps = cross_taps(y_taps, x_taps, width)
        image = rois[part, 0].int().view(-1, 1, 1, 1) * (height * width)
        order.append(part)
        pooled.append(sum_rows(rows, Taps(taps.index + image, taps.weight / count)))
    return join_parts(order, pooled, len(rois)).permute(0, 3, 1, 2)
