"""Maps in windows."""

from collections.abc import Callable, Iterator
from itertools import groupby, product
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .chunks import slices

Size = int | tuple[int, int]


def pad_map(x: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W, C) with zeros below and on the right: (B, height, width, C); itself where it has the size."""
    below, right = height - x.shape[1], width - x.shape[2]
    return F.pad(x, (0, 0, 0, right, 0, below)) if below or right else x


def complete(x: Tensor, stride: int) -> Tensor:
    """Zeros on the right and at the bottom of (B, C, H, W), up to multiples of the stride."""
    height, width = x.shape[2:]
    if height % stride or width % stride:
        x = F.pad(x, (0, -width % stride, 0, -height % stride))
    return x


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
    h, w = pair(size)
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
    h, w = pair(isqrt(int(windows.shape[-2])) if size is None else size)
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


def map_windows(function: Callable[[Tensor], Tensor], x: Tensor, size: Size, offset: Size = 0) -> Tensor:
    """``function`` of all windows of a map, which are cut where they leave it.

    Args:
        function: maps windows (n, h, w, C) to (n, h, w, D); it is called once for each size that windows have
            after the cut, which are nine at most.
        x: (B, H, W, C).
        size: (h, w) of a window in pixels; one number for both sides.
        offset: where the first window begins, within -h + 1..0 and -w + 1..0; one number for both axes.

    Returns:
        (B, H, W, D).

    Raises:
        ValueError: x has another number of axes, a side is below 1, or an offset of a window or more.
    """
    if x.ndim != 4:
        raise ValueError(f"x must have shape (B, H, W, C), found {tuple(x.shape)}")
    height, width = x.shape[1:3]
    sizes = pair(size)
    offsets = check_offset(offset, sizes)
    if offsets == (0, 0) and sizes[0] >= height and sizes[1] >= width:
        return function(x)
    row_runs, column_runs = (
        find_runs(length, side, side, first, 0, length)
        for length, side, first in zip((height, width), sizes, offsets, strict=True)
    )
    y = None
    for rows, columns in product(row_runs, column_runs):
        windows = view_windows(x, rows, columns)  # (B, rows, columns, h, w, C)
        mapped = function(windows.flatten(0, 2)).unflatten(0, windows.shape[:3])
        if y is None:
            y = mapped.new_empty(*x.shape[:3], mapped.shape[-1])
        view_windows(y, rows, columns).copy_(mapped)
    return y


def check_offset(offset: Size, size: tuple[int, int]) -> tuple[int, int]:
    """Where the first window begins, on both axes.

    Raises:
        ValueError: not within a window before the map.
    """
    offsets = (offset, offset) if isinstance(offset, int) else tuple(offset)
    for first, side in zip(offsets, size, strict=True):
        if not -side < first <= 0:
            raise ValueError(f"offset must be within {1 - side}..0 for windows of {side}, found {first}")
    return offsets


def pair(size: Size) -> tuple[int, int]:
    """Both sides of a window.

    Raises:
        ValueError: one is below 1.
    """
    h, w = (size, size) if isinstance(size, int) else size
    if min(h, w) < 1:
        raise ValueError(f"size must be at least 1, found {size}")
    return h, w


class Run(NamedTuple):
    """Neighbouring windows along one axis of a map that lie on it in the same way."""

    count: int  # of windows
    size: int  # of a window, in pixels
    first: int  # query of the first window, on the map
    queries: slice  # those of each window that are on the map
    first_key: int
    keys: slice

    def pieces(self, most: int) -> Iterator["Run"]:
        """The same windows, at most so many at a time."""
        for piece in slices(self.count, most):
            ahead = piece.start * self.size
            yield self._replace(
                count=piece.stop - piece.start, first=self.first + ahead, first_key=self.first_key + ahead
            )


def find_runs(length: int, size: int, keys: int, offset: int, margin: int, key_length: int) -> list[Run]:
    """The windows along one axis.

    Args:
        length: of the map, in pixels.
        size: of a window.
        keys: of a window of keys.
        offset: where the first window of queries begins, 0 or less.
        margin: pixels that a window of keys begins before that of queries.
        key_length: of the map of keys.
    """

    def cut(start: int) -> tuple[int, int, int, int]:
        key_start = start - margin
        ends = min(size, length - start), min(keys, key_length - key_start)
        return max(0, -start), ends[0], max(0, -key_start), ends[1]

    runs = []
    for (low, high, key_low, key_high), group in groupby(range(offset, length, size), cut):
        starts = list(group)
        first, first_key = starts[0] + low, starts[0] - margin + key_low
        runs.append(Run(len(starts), size, first, slice(low, high), first_key, slice(key_low, key_high)))
    return runs


def view_windows(x: Tensor, rows: Run, columns: Run, of_keys: bool = False) -> Tensor:
    """Windows of (B, H, W, D): a view (B, rows, columns, h, w, D)."""
    for axis, run in ((1, rows), (2, columns)):
        part, first = (run.keys, run.first_key) if of_keys else (run.queries, run.first)
        size = part.stop - part.start
        x = unfold(x.narrow(axis, first, (run.count - 1) * run.size + size), axis, size, run.size)
    return x.movedim(3, 5)


def unfold(x: Tensor, axis: int, size: int, step: int) -> Tensor:
    """``x.unfold(axis, size, step)``, a reshape where nothing overlaps: exporters can write into its view."""
    count = (x.shape[axis] - size) // step + 1
    if size == 1:
        return x[(slice(None),) * axis + (slice(None, None, step),)].unsqueeze(-1)
    if size != step and count > 1:
        return x.unfold(axis, size, step)
    return x.narrow(axis, 0, count * size).unflatten(axis, (count, size)).movedim(axis + 1, -1)
