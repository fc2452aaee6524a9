"""Pooling between two Bezier curves: Liu et al., "ABCNet", CVPR 2020, section 3.2.

Maps are (B, C, H, W). Beziers are (R, 17): the image, then x and y of eight control points in the image, four
of the upper curve from left to right, and four of the lower one from right to left.
"""

import torch
from torch import Tensor

from ...ops.roi_align import TAPS, axis_taps, check_rois, join_parts, same_samples
from ...ops.sampling import Taps, cross_taps, sum_rows, to_rows
from ._gradients import fill_gradients


def bezier_align_forward(
    input, beziers, output, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned
):
    """Fill ``output`` (R, C, height, width) with averages of bilinear samples; curves have no gradient."""
    size = (aligned_height, aligned_width)
    output.copy_(_align(input, beziers, size, spatial_scale, sampling_ratio, aligned))


def bezier_align_backward(
    grad_output,
    beziers,
    grad_input,
    aligned_height,
    aligned_width,
    spatial_scale,
    sampling_ratio,
    aligned,
):
    size = (aligned_height, aligned_width)

    def run(maps):
        return _align(maps, beziers, size, spatial_scale, sampling_ratio, aligned)

    fill_gradients(run, [grad_input], grad_output, [grad_input])


def _align(input, beziers, size, spatial_scale, sampling_ratio, aligned):
    check_rois(input, beziers, 17, "beziers")
    height, width = input.shape[2:]
    rows = to_rows(input)
    corners = beziers[:, 1:] if beziers.dtype == torch.float64 else beziers[:, 1:].float()
    upper, lower = (corners * spatial_scale).view(-1, 2, 4, 2).unbind(1)  # (R, 4, 2) each: x, y
    centre = _between(upper, lower.flip(1), size) - (0.5 if aligned else 0.0)  # (R, h, w, 2)
    # of both axes between the ends of a curve, as mmcv has it: upright text without slope has no height
    ends = torch.stack((upper[:, 0] - upper[:, 3], lower[:, 0] - lower[:, 3])).abs()
    length = ends.amax(0).flip(1)  # (R, 2): height, width
    if not aligned:
        length = length.clamp(min=1)
    bins = length / length.new_tensor(size)
    order, pooled = [], [rows[:0, None, None].expand(0, *size, -1)]
    for part, *counts in same_samples(length, size, sampling_ratio):
        step = max(1, TAPS // (size[0] * size[1] * 4 * counts[0] * counts[1]))
        for some in part.split(step):
            y_taps, x_taps = (
                axis_taps(
                    centre[some, ..., 1 - axis, None] + _offsets(counts[axis], bins[some, axis]),
                    end,
                    sampling_ratio,
                )
                for axis, end in enumerate((height, width))
            )  # (r, h, w, T) each
            taps = cross_taps(y_taps, x_taps, width)
            image = beziers[some, 0].int().view(-1, 1, 1, 1) * (height * width)
            order.append(some)
            pooled.append(sum_rows(rows, Taps(taps.index + image, taps.weight / (counts[0] * counts[1]))))
    return join_parts(order, pooled, len(beziers)).permute(0, 3, 1, 2)


def _between(upper: Tensor, lower: Tensor, size: tuple[int, int]) -> Tensor:
    """Places (R, height, width, 2), evenly spaced from the first points and curve, the last ones excluded."""
    down, t = (torch.arange(bins, dtype=upper.dtype, device=upper.device) / bins for bins in size)
    basis = torch.stack(((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3), 1)  # (w, 4)
    return torch.lerp((basis @ upper)[:, None], (basis @ lower)[:, None], down[:, None, None])


def _offsets(count: int, bins: Tensor) -> Tensor:
    """Of ``count`` even samples in bins of sizes (r,), about their middle: (r, 1, 1, count)."""
    places = (torch.arange(count, dtype=bins.dtype, device=bins.device) + 0.5) / count - 0.5
    return bins.view(-1, 1, 1, 1) * places
