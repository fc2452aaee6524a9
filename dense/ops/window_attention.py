"""Attention in windows of a map, of which those at the border may stick out."""

from collections.abc import Iterator
from itertools import groupby, product
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from .chunks import rows_at_once, slices


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


def window_attention(
    q: Tensor, kv: Tensor, bias: Tensor, num_heads: int, *, offset: int = 0, pad_keys: bool = False
) -> Tensor:
    """Attention from windows of a map to windows of the same size or larger around them.

    What lies outside of the map takes no part: windows that stick out are cut. So shifted windows at the
    border are smaller. To roll the map, and to mask what does not belong together, would give the same.

    Args:
        q: (B, H, W, C), queries.
        kv: (B, H, W, 2C), keys and values.
        bias: (heads, M, M, K, K), of the logit of each query of a window of M x M pixels and each key of one
            of K x K, which begins (K - M) // 2 pixels before. K - M must be 0 or more.
        num_heads: divides C.
        offset: where the first window begins, within -M + 1..0, on both axes.
        pad_keys: there are zeros around the map, which are keys and values.

    Returns:
        (B, H, W, C).

    Raises:
        ValueError: shapes that do not fit, or an offset of a window or more.

    Source: Chen et al., "Activating More Pixels in Image Super-Resolution Transformer", CVPR 2023.
    """
    _check(q, kv, bias, num_heads, offset)
    size, keys = bias.shape[2], bias.shape[4]
    margin = (keys - size) // 2
    if pad_keys:
        around = (margin, keys - size - margin)
        kv, margin = F.pad(kv, (0, 0, *around, *around)), 0
    bias = bias.to(q.dtype)
    y = q.new_empty(q.shape)
    row_runs, column_runs = (
        find_runs(q.shape[axis], size, keys, offset, margin, kv.shape[axis]) for axis in (1, 2)
    )
    for rows, columns in product(row_runs, column_runs):
        piece_bias = bias[:, rows.queries, columns.queries, rows.keys, columns.keys]
        piece_bias = piece_bias.flatten(3, 4).flatten(1, 2)[None]  # (1, heads, n, m)
        across = len(q) * columns.count * piece_bias.shape[3] * kv.shape[3]
        for piece in rows.pieces(rows_at_once(rows.count, across, q.device)):
            queries = _windows(q, piece, columns)  # (B, rows, columns, h, w, C)
            keys_values = _windows(kv, piece, columns, of_keys=True)
            heads = queries.flatten(3, 4).flatten(0, 2).unflatten(-1, (num_heads, -1))
            k, v = keys_values.flatten(3, 4).flatten(0, 2).unflatten(-1, (2, num_heads, -1)).unbind(2)
            attended = F.scaled_dot_product_attention(
                heads.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), piece_bias
            )  # (windows, heads, n, d)
            _windows(y, piece, columns).copy_(attended.transpose(1, 2).reshape(queries.shape))
    return y


def _windows(x: Tensor, rows: Run, columns: Run, of_keys: bool = False) -> Tensor:
    """Windows of (B, H, W, D): a view (B, rows, columns, h, w, D)."""
    for axis, run in ((1, rows), (2, columns)):
        part, first = (run.keys, run.first_key) if of_keys else (run.queries, run.first)
        size = part.stop - part.start
        x = x.narrow(axis, first, (run.count - 1) * run.size + size).unfold(axis, size, run.size)
    return x.movedim(3, 5)


def _check(q: Tensor, kv: Tensor, bias: Tensor, num_heads: int, offset: int) -> None:
    if q.ndim != 4 or kv.shape != (*q.shape[:3], 2 * q.shape[3]):
        found = f"{tuple(q.shape)} and {tuple(kv.shape)}"
        raise ValueError(f"q and kv must be (B, H, W, C) and (B, H, W, 2 C), found {found}")
    if num_heads < 1 or q.shape[3] % num_heads:
        raise ValueError(f"num_heads must divide the {q.shape[3]} channels, found {num_heads}")
    size, keys = bias.shape[1:2], bias.shape[3:4]
    if bias.shape != (num_heads, *size, *size, *keys, *keys) or not size or keys < size:
        raise ValueError(f"bias must be ({num_heads}, M, M, K, K), K at least M, found {tuple(bias.shape)}")
    if not -size[0] < offset <= 0:
        raise ValueError(f"offset must be within {1 - size[0]}..0 for windows of {size[0]}, found {offset}")
