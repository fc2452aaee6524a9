"""Maps in windows."""

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

Size = int | tuple[int, int]


def pad_map(x: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W, C) with zeros below and on the right: (B, height, width, C); itself where it has the size."""
    below, right = height - x.shape[1], width - x.shape[2]
    return F.pad(x, (0, 0, 0, right, 0, below)) if below or right else x


def partition_windows(x: Tensor, size: Size) -> Tensor:
    """Cut maps into windows; zeros on the right and at the bottom complete the last ones.

    Args:
        x: (B, H, W, C).
        size: (h, w) of a window in pixels; one number for both sides.

    Returns:
        (B * n, h * w, C): the n = ceil(H / h) * ceil(W / w) windows of each map, and the pixels of each
        window, both row by row. Where a map is one window wide, a view.

    Raises:
        ValueError: x has another number of axes, or a side is below 1.
    """
    if x.ndim != 4:
        raise ValueError(f"x must have shape (B, H, W, C), found {tuple(x.shape)}")
    h, w = _pair(size)
    batch, height, width, channels = x.shape
    rows, columns = -(-height // h), -(-width // w)
    x = pad_map(x, rows * h, columns * w)
    x = x.unflatten(2, (columns, w)).unflatten(1, (rows, h)).transpose(2, 3)
    return x.reshape(batch * rows * columns, h * w, channels)


def merge_windows(windows: Tensor, height: int, width: int, size: Size | None = None) -> Tensor:
    """Undo :func:`partition_windows`; what completed the last windows is dropped.

    Args:
        windows: (B * n, h * w, C).
        height, width: of the maps.
        size: (h, w), or one number for both; by default the windows are square.

    Returns:
        (B, H, W, C).

    Raises:
        ValueError: the windows are not of this size, or their number fits no batch of such maps.
    """
    h, w = _pair(isqrt(int(windows.shape[-2])) if size is None else size)
    rows, columns = -(-height // h), -(-width // w)
    if windows.ndim != 3 or h * w != windows.shape[-2] or windows.shape[0] % (rows * columns):
        shape = "w * w" if size is None else h * w
        raise ValueError(
            f"windows must have shape (B * {rows * columns}, {shape}, C) for maps of {height} x {width}, "
            f"found {tuple(windows.shape)}"
        )
    x = windows.view(-1, rows, columns, h, w, windows.shape[-1]).transpose(2, 3)
    return x.reshape(-1, rows * h, columns * w, windows.shape[-1])[:, :height, :width]


def window_mask(height: int, width: int, size: Size, device: torch.device | str | None = None) -> Tensor:
    """Which pixels of the windows of one map lie on the map.

    Args:
        height, width: of the map.
        size: (h, w) of a window in pixels; one number for both sides.
        device: of the result.

    Returns:
        (n, h * w) bool, in the order of :func:`partition_windows`.
    """
    on_map = torch.ones(1, height, width, 1, dtype=torch.bool, device=device)
    return partition_windows(on_map, size)[..., 0]


def _pair(size: Size) -> tuple[int, int]:
    h, w = (size, size) if isinstance(size, int) else size
    if min(h, w) < 1:
        raise ValueError(f"size must be at least 1, found {size}")
    return h, w
