"""Restore images of any size by networks that want sides of a certain multiple, whole or tile by tile."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def restore(network: nn.Module, image: Tensor, tile: int | None = None, overlap: int = 32) -> Tensor:
    """Pad at the bottom and on the right by reflection, run, crop.

    Tiles are cut from the padded image, row by row from the top left; the last ones may be smaller. A tile is
    run together with ``overlap`` pixels around it, as far as the image goes, of which the result is dropped.
    A network that looks further than that, or pools over the image, gives other values than for the whole.

    Args:
        network: maps (B, C, h, w) to (B, C, scale * h, scale * w); has attributes ``scale`` and ``multiple``,
            which divides the sides that it takes. Its mode (``eval()``) is the caller's affair.
        image: (B, C, H, W), of any size.
        tile: side of the tiles in pixels of ``image``, a multiple of ``multiple``. None: the whole at once.
        overlap: pixels that a tile sees beyond its own on each side, a multiple of ``multiple``.

    Returns:
        (B, C, scale * H, scale * W), without gradient.

    Raises:
        ValueError: another number of axes, an empty image, or a tile or overlap that does not suit.
    """
    if image.ndim != 4 or 0 in image.shape:
        raise ValueError(f"image must have shape (B, C, H, W), none of them 0, found {tuple(image.shape)}")
    scale, multiple = network.scale, network.multiple
    height, width = image.shape[2:]
    padded = reflect(image, -height % multiple, -width % multiple)
    if tile is None:
        return network(padded)[..., : scale * height, : scale * width]
    for name, value, least in (("tile", tile, 1), ("overlap", overlap, 0)):
        if value < least or value % multiple:
            raise ValueError(f"{name} must be a multiple of {multiple} and at least {least}, found {value}")

    rows, columns = padded.shape[2:]
    result = None
    for top in range(0, rows, tile):
        for left in range(0, columns, tile):
            above, before = min(overlap, top), min(overlap, left)
            bottom, right = min(top + tile, rows), min(left + tile, columns)
            seen = padded[..., top - above : bottom + overlap, left - before : right + overlap]
            y = network(seen)[..., scale * above :, scale * before :]
            if result is None:
                result = y.new_empty(*y.shape[:2], scale * rows, scale * columns)
            h, w = scale * (bottom - top), scale * (right - left)
            result[..., scale * top :, scale * left :][..., :h, :w] = y[..., :h, :w]
    return result[..., : scale * height, : scale * width]


def reflect(x: Tensor, bottom: int, right: int) -> Tensor:
    """Continue maps as between mirrors on their outermost rows and columns.

    As :func:`torch.nn.functional.pad`, which however wants more rows than it is to add. A single row repeats.

    Args:
        x: (..., H, W).
        bottom, right: rows and columns to add.

    Returns:
        (..., H + bottom, W + right); x itself where both are 0.
    """
    for axis, more in ((-2, bottom), (-1, right)):
        if more:
            last = x.shape[axis] - 1
            index = torch.arange(last + 1 + more, device=x.device) % max(2 * last, 1)
            x = x.index_select(axis, torch.minimum(index, 2 * last - index))
    return x
