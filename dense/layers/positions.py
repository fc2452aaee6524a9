"""Learned tables of positions, and their resizing to other grids."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_positions(
    table: Tensor,
    old: Sequence[int],
    new: Sequence[int],
    *,
    antialias: bool = True,
    scale_offset: float = 0.0,
    mode: str = "bicubic",
) -> Tensor:
    """A table of positions for another grid, by interpolation (in float32 at least).

    Args:
        table: (1, P + h * w, C): rows of P prefix tokens, which stay, then those of the grid, row by row.
        old: h and w.
        new: height and width of the wanted grid.
        antialias: low-pass before shrinking, as timm does; DINOv2 does not.
        scale_offset: added to the new sides in the factor by which positions are scaled (DINOv2: 0.1, once
            against a rounding error); 0 scales by the sides themselves.
        mode: "bicubic" or "bilinear".

    Returns:
        (1, P + height * width, C).

    Raises:
        ValueError: the table has fewer rows than its grid.
    """
    prefix = table.shape[1] - old[0] * old[1]
    if prefix < 0:
        raise ValueError(f"a table of {table.shape[1]} rows has none for a grid of {old[0]} x {old[1]}")
    if tuple(old) == tuple(new):
        return table
    rows = table[:, prefix:].unflatten(1, tuple(old)).permute(0, 3, 1, 2)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    how = {"mode": mode, "align_corners": False, "antialias": antialias}
    if scale_offset:
        factors = [(n + scale_offset) / o for n, o in zip(new, old, strict=True)]
        rows = F.interpolate(rows, scale_factor=factors, **how)
        if tuple(rows.shape[2:]) != tuple(new):
            raise ValueError(f"positions were resized to {tuple(rows.shape[2:])}, wanted {tuple(new)}")
    else:
        rows = F.interpolate(rows, tuple(new), **how)
    return torch.cat((table[:, :prefix], rows.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)), 1)
