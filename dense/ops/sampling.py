"""Weighted sums of pixels around points: what RoI pooling, deformable layers and their like share.

A batch of maps becomes a table with a row of channels a pixel; a sum is then the rows at some indices by
their weights, which PyTorch's embedding bag does in one pass, with gradients, on every device.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Taps(NamedTuple):
    """Which pixels are summed, and their weights: two tensors (..., T), the indices int32."""

    index: Tensor
    weight: Tensor


def check_maps(maps: Tensor, name: str) -> None:
    """That maps are floating (B, C, H, W)."""
    if maps.ndim != 4 or not maps.is_floating_point():
        raise ValueError(f"{name} must be floating (B, C, H, W), found {maps.dtype} {tuple(maps.shape)}")


def to_rows(maps: Tensor, parts: int = 1) -> Tensor:
    """Maps (B, C, H, W) as a table (B * H * W * parts, C / parts): pixels by row of the map, then parts."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1] // parts)


def sum_rows(rows: Tensor, taps: Taps) -> Tensor:
    """Sums of rows (R, C) by taps (..., T): (..., C), in the dtype of the rows; both are differentiable."""
    taken = taps.index.shape[-1]
    wide = rows if rows.dtype == torch.float64 else rows.float()  # the bag has no gradient for half
    sums = F.embedding_bag(
        taps.index.reshape(-1, taken),
        wide,
        per_sample_weights=taps.weight.reshape(-1, taken).to(wide.dtype),
        mode="sum",
    )
    return sums.view(*taps.index.shape[:-1], rows.shape[-1]).to(rows.dtype)


def linear_taps(position: Tensor, size: int | Tensor) -> Taps:
    """The two pixels around a position on an axis, by linear interpolation; pixels outside count nothing.

    Nor does a position of -1 have a gradient, though to its right there is one: where offsets begin at
    zero, the padding is full of such.

    Args:
        position: (...), in pixels from the centre of the first.
        size: pixels of the axis, one number or a tensor that broadcasts to position.
    """
    low = position.detach().floor()
    fraction = position - low
    index = torch.stack((low, low + 1), -1)
    weight = torch.stack((1 - fraction, fraction), -1)
    inside = (index >= 0) & (index < (size[..., None] if isinstance(size, Tensor) else size))
    inside &= (position > -1)[..., None]
    return Taps(torch.where(inside, index, 0).int(), torch.where(inside, weight, 0))


def edge_taps(position: Tensor, size: int) -> Taps:
    """As :func:`linear_taps`, but within one pixel of the map the edge goes on; beyond that is nothing."""
    inside = (position >= -1) & (position <= size)
    index, weight = linear_taps(torch.where(inside, position, 0).clamp(0, size - 1), size)
    return Taps(index, torch.where(inside[..., None], weight, 0))


def merge_taps(taps: Taps, count: int, size: int) -> Taps:
    """Taps (..., n, 2) of n samples that lie within ``count`` pixels of an axis, as one sum (..., count)."""
    first = taps.index[..., :1, 0]
    slot = (taps.index.flatten(-2) - first).clamp(0, count - 1)  # those clamped have no weight
    weight = taps.weight.new_zeros(*slot.shape[:-1], count)
    weight = weight.scatter_add(-1, slot.long(), taps.weight.flatten(-2))
    steps = torch.arange(count, dtype=torch.int32, device=slot.device)
    return Taps((first + steps).clamp(max=size - 1), weight)


def cross_taps(y: Taps, x: Taps, width: int | Tensor) -> Taps:
    """Taps (..., Ty * Tx) of pixels from those of rows (..., Ty) and of columns (..., Tx), which broadcast.

    Args:
        width: pixels of a row, one number or a tensor that broadcasts to the taps of rows.
    """
    index = (y.index * width)[..., :, None] + x.index[..., None, :]
    weight = y.weight[..., :, None] * x.weight[..., None, :]
    return Taps(index.flatten(-2), weight.flatten(-2))
