"""Clouds sorted along a space-filling curve, and boxes around runs of their points, for searches on the GPU.

Any order gives exact answers; this one makes boxes small. PyTorch's own sort does the work.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

CELLS = 2**21  # along each axis: three coordinates fill a 63-bit code


class SortedCloud(NamedTuple):
    planes: Tensor  # (B, 3, M): the points along the curve; padding last
    order: Tensor  # (B, M) int32: their indices in the cloud
    codes: Tensor  # (B, M) int64, ascending
    frame: tuple[Tensor, Tensor]  # the corner (B, 1, 3) of the cube of cells, and its side (B, 1, 1)


def sort_cloud(points: Tensor, counts: Tensor | None, multiple: int) -> SortedCloud:
    """Sort the clouds (B, N, 3); M is N rounded up to a `multiple`."""
    batch, size = points.shape[:2]
    real = None if counts is None else (torch.arange(size, device=points.device) < counts[:, None])[..., None]
    low = (points if real is None else points.where(real, torch.inf)).amin(1, keepdim=True)
    high = (points if real is None else points.where(real, -torch.inf)).amax(1, keepdim=True)
    frame = low, (high - low).amax(-1, keepdim=True)
    codes = curve_codes(points, frame)
    if real is not None:
        codes = codes.masked_fill(~real[..., 0], torch.iinfo(torch.int64).max)
    codes, order = codes.sort(dim=1, stable=True)  # equal codes keep the order of indices
    padded = -(-size // multiple) * multiple
    planes = points.new_zeros(batch, 3, padded)
    planes[..., :size] = points.gather(1, order[..., None].expand(-1, -1, 3)).transpose(1, 2)
    names = order.new_zeros(batch, padded, dtype=torch.int32)
    names[:, :size] = order
    return SortedCloud(planes, names, codes, frame)


def curve_codes(points: Tensor, frame: tuple[Tensor, Tensor]) -> Tensor:
    """Morton codes (B, N) of points (B, N, 3): the bits of their cells' coordinates, interleaved."""
    low, side = frame
    share = ((points - low) / side.clamp_min(torch.finfo(points.dtype).tiny)).nan_to_num(0, 1, 0)
    code = (share.clamp(0, 1).double() * (CELLS - 1)).long()
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        code = (code | (code << shift)) & mask
    return (code << torch.arange(3, device=points.device)).sum(-1)


def leaf_boxes(planes: Tensor, counts: Tensor | None, size: int, leaf: int) -> Tensor:
    """Lowest and highest coordinates of each run of `leaf` points, (B, 6, M / leaf); inside out if empty."""
    real = torch.arange(planes.shape[-1], device=planes.device) < (
        size if counts is None else counts[:, None]
    )
    real = real.expand(len(planes), -1)[:, None]
    low = planes.where(real, torch.inf).unflatten(-1, (-1, leaf)).amin(-1)
    high = planes.where(real, -torch.inf).unflatten(-1, (-1, leaf)).amax(-1)
    return torch.cat([low, high], 1)


def outer_boxes(boxes: Tensor, fan: int) -> Tensor:
    """Boxes around each run of `fan` boxes."""
    low, high = boxes.unflatten(-1, (-1, fan)).chunk(2, 1)
    return torch.cat([low.amin(-1), high.amax(-1)], 1)


@triton.jit
def box_distance(boxes, size, index, x, y, z):
    """Squared distances from a point to the boxes at `index` of a (6, size) array, infinite if empty.

    Rounding is monotone, so none is above that to a point inside.
    """
    dx = tl.maximum(tl.maximum(tl.load(boxes + index) - x, x - tl.load(boxes + size * 3 + index)), 0)
    dy = tl.maximum(tl.maximum(tl.load(boxes + size + index) - y, y - tl.load(boxes + size * 4 + index)), 0)
    dz = tl.maximum(
        tl.maximum(tl.load(boxes + size * 2 + index) - z, z - tl.load(boxes + size * 5 + index)), 0
    )
    return (dx * dx + dy * dy) + dz * dz
