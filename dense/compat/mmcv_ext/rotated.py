"""Boxes at any angle, (x, y, width, height, angle), and quadrilaterals, (x1, y1, ..., x4, y4).

Positive angles turn the x axis towards the y axis, which points down. Quadrilaterals must be convex.
"""

import numpy as np
import torch
from torch import Tensor

from ...ops.roi_align import bin_places, check_rois, join_parts, same_samples
from ...ops.sampling import Taps, check_maps, cross_taps, edge_taps, sum_rows, to_rows
from ._checks import check_shape
from ._gradients import fill_gradients
from .nms import jit, to_numpy

SMALLEST = 1e-14  # area below which a shape overlaps nothing


def box_iou_rotated(bboxes1, bboxes2, ious, mode_flag, aligned):
    """Fill ``ious``, flat, with intersection over union (flag 0) or over the first area (1)."""
    _fill_overlaps(_box_corners(bboxes1), _box_corners(bboxes2), ious, mode_flag, aligned)


def box_iou_quadri(bboxes1, bboxes2, ious, mode_flag, aligned):
    _fill_overlaps(_quad_corners(bboxes1), _quad_corners(bboxes2), ious, mode_flag, aligned)


def nms_rotated(dets, scores, order, dets_sorted, labels, iou_threshold, multi_label):
    """Indices kept, by falling score. Labels make no difference, nor do they in mmcv's own kernels."""
    check_shape(scores, "scores", (len(dets),))
    return _suppress_sorted(_box_corners(dets_sorted[:, :5]), order, iou_threshold)


def nms_quadri(dets, scores, order, dets_sorted, iou_threshold, multi_label):
    """As :func:`nms_rotated`."""
    check_shape(scores, "scores", (len(dets),))
    return _suppress_sorted(_quad_corners(dets_sorted[:, :8]), order, iou_threshold)


def _fill_overlaps(first, second, ious, mode, aligned):
    if aligned and len(first) != len(second):
        raise ValueError(f"aligned boxes are pairs, found {len(first)} and {len(second)}")
    found = _overlaps(first, second, mode == 1, bool(aligned))
    ious.copy_(torch.from_numpy(found).view(ious.shape))


def _suppress_sorted(corners, order, iou_threshold):
    keep = _suppress(corners, iou_threshold)
    return order[torch.from_numpy(keep).to(order.device)]


def _box_corners(boxes: Tensor) -> np.ndarray:
    check_shape(boxes, "rotated boxes", (len(boxes), 5))
    x, y, width, height, angle = to_numpy(boxes).astype(np.float64).T[..., None]
    across, down = np.array([-0.5, 0.5, 0.5, -0.5]) * width, np.array([-0.5, -0.5, 0.5, 0.5]) * height
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack((x + cos * across - sin * down, y + sin * across + cos * down), -1)  # (N, 4, 2)


def _quad_corners(quads: Tensor) -> np.ndarray:
    """Corners (N, 4, 2) in the turning direction of boxes."""
    check_shape(quads, "quadrilaterals", (len(quads), 8))
    corners = to_numpy(quads).astype(np.float64).reshape(-1, 4, 2)
    following = np.roll(corners, -1, 1)
    doubled = corners[..., 0] * following[..., 1] - following[..., 0] * corners[..., 1]
    return np.where(doubled.sum(1)[:, None, None] < 0, corners[:, ::-1], corners)


@jit
def _area(polygon, count):
    doubled = 0.0
    for i in range(count):
        x, y = polygon[i]
        next_x, next_y = polygon[(i + 1) % count]
        doubled += x * next_y - next_x * y
    return doubled / 2


@jit
def _shared_area(first, second, polygon, clipped):
    """Area of ``first`` cut by each side of ``second``; the last two are scratch (8, 2)."""
    polygon[:4] = first
    count = 4
    for side in range(4):
        ax, ay = second[side]
        bx, by = second[(side + 1) % 4]
        found = 0
        for i in range(count):
            x, y = polygon[i]
            next_x, next_y = polygon[(i + 1) % count]
            inner = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
            next_inner = (bx - ax) * (next_y - ay) - (by - ay) * (next_x - ax)
            if inner >= 0:
                clipped[found, 0], clipped[found, 1] = x, y
                found += 1
            if (inner > 0 and next_inner < 0) or (inner < 0 and next_inner > 0):
                t = inner / (inner - next_inner)
                clipped[found, 0], clipped[found, 1] = x + t * (next_x - x), y + t * (next_y - y)
                found += 1
        polygon, clipped, count = clipped, polygon, found
    return _area(polygon, count)


@jit
def _overlap(first, second, over_first, polygon, clipped):
    for axis in range(2):  # most pairs are far apart
        if first[:, axis].max() <= second[:, axis].min() or second[:, axis].max() <= first[:, axis].min():
            return 0.0
    area1, area2 = _area(first, 4), _area(second, 4)
    if area1 < SMALLEST or area2 < SMALLEST or np.isnan(area1) or np.isnan(area2):
        return 0.0
    # about one of their corners, so that large coordinates cost no precision
    shared = _shared_area(first - first[0], second - first[0], polygon, clipped)
    return shared / area1 if over_first else shared / (area1 + area2 - shared)


@jit
def _overlaps(first, second, over_first, aligned):
    polygon, clipped = np.empty((16, 2)), np.empty((16, 2))
    found = np.empty((len(first), 1 if aligned else len(second)))
    for i in range(len(first)):
        for j in range(found.shape[1]):
            other = second[i] if aligned else second[j]
            found[i, j] = _overlap(first[i], other, over_first, polygon, clipped)
    return found


@jit
def _suppress(corners, threshold):
    polygon, clipped = np.empty((16, 2)), np.empty((16, 2))
    keep = np.ones(len(corners), np.bool_)
    for i in range(len(corners)):
        if keep[i]:
            for j in range(i + 1, len(corners)):
                # one with NaN overlaps nothing
                if keep[j] and _overlap(corners[i], corners[j], False, polygon, clipped) > threshold:
                    keep[j] = False
    return keep


def roi_align_rotated_forward(
    input, rois, output, pooled_height, pooled_width, spatial_scale, sampling_ratio, aligned, clockwise
):
    """RoIAlign in turned boxes (R, 6), the image first; without ``clockwise`` angles count the other way."""
    size = (pooled_height, pooled_width)
    output.copy_(_align(input, rois, size, spatial_scale, sampling_ratio, aligned, clockwise))


def roi_align_rotated_backward(
    grad_output,
    rois,
    grad_input,
    pooled_height,
    pooled_width,
    spatial_scale,
    sampling_ratio,
    aligned,
    clockwise,
):
    size = (pooled_height, pooled_width)

    def run(maps):
        return _align(maps, rois, size, spatial_scale, sampling_ratio, aligned, clockwise)

    fill_gradients(run, [grad_input], grad_output, [grad_input])


def _align(input, rois, size, spatial_scale, sampling_ratio, aligned, clockwise):
    check_rois(input, rois, 6)
    height, width = input.shape[2:]
    rows = to_rows(input)
    boxes = rois[:, 1:] if rois.dtype == torch.float64 else rois[:, 1:].float()
    centre = boxes[:, :2] * spatial_scale - (0.5 if aligned else 0.0)
    length = boxes[:, [3, 2]] * spatial_scale  # (R, 2): height, width
    if not aligned:
        length = length.clamp(min=1)
    angle = boxes[:, 4] if clockwise else -boxes[:, 4]
    order, pooled = [], [rows[:0, None, None].expand(0, *size, -1)]
    for part, num_y, num_x in same_samples(length, size, sampling_ratio):
        down = (bin_places(size[0], num_y, length) - 0.5)[:, None, :, None]  # (h, 1, n, 1), in heights
        across = (bin_places(size[1], num_x, length) - 0.5)[:, None, :]  # (w, 1, n), in widths
        centre_x, centre_y, tall, wide, cos, sin = (
            t[part].view(-1, 1, 1, 1, 1)
            for t in (*centre.unbind(1), *length.unbind(1), angle.cos(), angle.sin())
        )
        y = centre_y + sin * wide * across + cos * tall * down  # (r, h, w, n, n)
        x = centre_x + cos * wide * across - sin * tall * down
        taps = cross_taps(edge_taps(y, height), edge_taps(x, width), width)
        image = rois[part, 0].int().view(-1, 1, 1, 1) * (height * width)
        index, weight = taps.index.flatten(3) + image, taps.weight.flatten(3) / (num_y * num_x)
        order.append(part)
        pooled.append(sum_rows(rows, Taps(index, weight)))
    return join_parts(order, pooled, len(rois)).permute(0, 3, 1, 2)


def active_rotated_filter_forward(input, indices, output):
    """Turned copies of filters: Zhou et al., "Oriented Response Networks", CVPR 2017.

    Args:
        input: (out, in, orientations, h, w).
        indices: (orientations, h, w, rotations), from 1: where each entry goes among orientations * h * w.
        output: (out * rotations, in * orientations, h, w), filled.
    """
    out, planes, *entry = input.shape
    check_shape(indices, "indices", (*entry, *indices.shape[-1:]))
    entries = torch.Size(entry).numel()
    first, last = indices.aminmax()
    if first < 1 or last > entries:
        raise ValueError(f"indices must be 1 to {entries}, found {int(first)} to {int(last)}")
    target = indices.flatten(0, -2).T.long() - 1  # (rotations, entries)
    turned = input.new_zeros(out, len(target), planes, target.shape[1])
    turned.scatter_(
        3,
        target[None, :, None].expand_as(turned),
        input.reshape(out, 1, planes, entries).expand_as(turned),
    )
    output.copy_(turned.view(output.shape))


def active_rotated_filter_backward(grad_out, indices, grad_in):
    target = indices.flatten(0, -2).T.long() - 1
    turned = grad_out.reshape(grad_in.shape[0], len(target), grad_in.shape[1], target.shape[1])
    grad_in.copy_(turned.gather(3, target[None, :, None].expand_as(turned)).sum(1).view(grad_in.shape))


def rotated_feature_align_forward(features, best_bboxes, output, spatial_scale, points):
    """Add to each pixel those around its box: Yang et al., "R3Det", AAAI 2021, section 3.3.

    Args:
        features: (B, C, H, W).
        best_bboxes: (B, H, W, 5): y and x of the centre, width, height, angle, in the image. That the first
            is y is mmcv's rule for this operator, which its weights were trained with.
        output: as features, filled: features and their bilinear samples at the centre, with 5 ``points``
            also at the corners.
    """
    output.copy_(_refine(features, best_bboxes, spatial_scale, points))


def rotated_feature_align_backward(grad_output, best_bboxes, grad_input, spatial_scale, points):
    def run(maps):
        return _refine(maps, best_bboxes, spatial_scale, points)

    fill_gradients(run, [grad_input], grad_output, [grad_input])


def _refine(features, boxes, spatial_scale, points):
    check_maps(features, "features")
    batch, _, height, width = features.shape
    check_shape(boxes, "best_rbboxes", (batch, height, width, 5))
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    scaled = (boxes[..., :4] * spatial_scale)[..., None]  # (B, H, W, 4, 1)
    y, x, wide, tall = scaled.unbind(-2)
    if points == 5:
        across = wide / 2 * wide.new_tensor([0, 1, -1, -1, 1])
        down = tall / 2 * tall.new_tensor([0, 1, 1, -1, -1])
        cos, sin = boxes[..., 4:].cos(), boxes[..., 4:].sin()
        y, x = y + sin * across + cos * down, x + cos * across - sin * down
    taps = cross_taps(edge_taps(y, height), edge_taps(x, width), width)  # (B, H, W, points, 4)
    image = torch.arange(batch, dtype=torch.int32, device=boxes.device).view(-1, 1, 1, 1) * (height * width)
    sums = sum_rows(to_rows(features), Taps(taps.index.flatten(3) + image, taps.weight.flatten(3)))
    return features + sums.permute(0, 3, 1, 2)
