"""Maps in square windows."""

import torch
from torch import Tensor
from torch.nn import functional as F


def partition_windows(x: Tensor, size: int) -> Tensor:
    """Cut maps into windows; zeros on the right and at the bottom complete the last ones.

    Args:
        x: (B, H, W, C).
        size: w, the side of a window in pixels.

    Returns:
        (B * n, w * w, C): the n = ceil(H / w) * ceil(W / w) windows of each map, and the pixels of each
        window, both row by row. Where a map is one window wide, a view.

    Raises:
        ValueError: x has another number of axes, or size is below 1.
    """
    if x.ndim != 4:
        raise ValueError(f"x must have shape (B, H, W, C), found {tuple(x.shape)}")
    if size < 1:
        raise ValueError(f"size must be at least 1, found {size}")
    batch, height, width, channels = x.shape
    if height % size or width % size:
        x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    rows, columns = -(-height // size), -(-width // size)
    x = x.view(batch, rows, size, columns, size, channels).transpose(2, 3)
    return x.reshape(batch * rows * columns, size * size, channels)


def merge_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """Undo :func:`partition_windows`; what completed the last windows is dropped.

    Args:
        windows: (B * n, w * w, C).
        height, width: of the maps.

    Returns:
        (B, H, W, C).

    Raises:
        ValueError: the windows are not square, or their number fits no batch of such maps.
    """
    size = round(windows.shape[-2] ** 0.5)
    rows, columns = -(-height // size), -(-width // size)
    if windows.ndim != 3 or size * size != windows.shape[-2] or windows.shape[0] % (rows * columns):
        raise ValueError(
            f"windows must have shape (B * {rows * columns}, w * w, C) for maps of {height} x {width}, "
            f"found {tuple(windows.shape)}"
        )
    x = windows.view(-1, rows, columns, size, size, windows.shape[-1]).transpose(2, 3)
    return x.reshape(-1, rows * size, columns * size, windows.shape[-1])[:, :height, :width]


def window_mask(height: int, width: int, size: int, device: torch.device | str | None = None) -> Tensor:
    """Which pixels of the windows of one map lie on the map.

    Args:
        height, width: of the map.
        size: w, the side of a window in pixels.
        device: of the result.

    Returns:
        (n, w * w) bool, in the order of :func:`partition_windows`.
    """
    on_map = torch.ones(1, height, width, 1, dtype=torch.bool, device=device)
    return partition_windows(on_map, size)[..., 0]
