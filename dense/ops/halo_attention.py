"""Attention from blocks of a map to windows around them, with learned positions of the keys."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .attention import padded_attention
from .chunks import rows_at_once, slices


def halo_attention(
    q: Tensor,
    kv: Tensor,
    row_table: Tensor,
    column_table: Tensor,
    block: int,
    halo: int,
    *,
    stride: int = 1,
    step: int | None = None,
    scale: float | None = None,
    position_scale: float = 1.0,
    mask_padding: bool = False,
) -> Tensor:
    """Each block of queries attends to all pixels of one window, which is larger by a halo.

    The logit of query (y, x) of a block and key (i, j) of its window, W = block + 2 * halo pixels a side, is

        scale * q . k + position_scale * q . (row_table[i - step * y + W - 1] + column_table[j - ... + W - 1])

    It is one product of longer queries and keys: q . row_table of each row i of the window goes to a channel
    that is 1 for keys of that row. So no logits are held where the device has such a kernel, and no
    positions of pairs of pixels. Zeros complete the map on the right and at the bottom.

    Args:
        q: (B, ceil(H / stride), ceil(W / stride), heads, d), queries of every ``stride``-th pixel.
        kv: (B, H, W, heads, d + c), keys and values of each head.
        row_table, column_table: (2 W - 1, d).
        block: pixels of a side of the blocks, of the map of keys; a multiple of ``stride``.
        halo: pixels around it.
        stride: of the queries.
        step: rows of a table between neighbouring queries; by default the pixels that there are, ``stride``.
        scale: of the products; by default d^-0.5.
        position_scale: of the positions'.
        mask_padding: keep what lies outside of the map out; else it has keys and values of 0, and so shares
            by its position alone.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), heads, c).

    Raises:
        ValueError: shapes that do not fit, or a block that is no multiple of the stride.

    Source: Vaswani et al., "Scaling Local Self-Attention for Parameter Efficient Visual Backbones", CVPR
    2021, arXiv 2103.12731.
    """
    window = block + 2 * halo
    _check(q, kv, (row_table, column_table), block, halo, stride)
    height, width, heads, dims = q.shape[1:]
    side, step = block // stride, stride if step is None else step
    scale = dims**-0.5 if scale is None else scale
    rows, columns = -(-height // side), -(-width // side)
    q = F.pad(q, (0, 0, 0, 0, 0, columns * side - width, 0, rows * side - height))
    queries = q.unflatten(2, (columns, side)).unflatten(1, (rows, side))  # (B, rows, y, columns, x, heads, d)
    queries = queries.permute(0, 1, 3, 5, 2, 4, 6)  # (B, rows, columns, heads, y, x, d)
    below, right = rows * block - kv.shape[1] + halo, columns * block - kv.shape[2] + halo
    around = (halo, right, halo, below)
    keys = _windows(F.pad(kv, (0, 0, 0, 0, *around)), window, block)  # (B, rows, columns, heads, i, j, d + c)
    places = _places(window, queries)
    outside = None
    if mask_padding:
        far = torch.finfo(q.dtype).min / 4
        outside = F.pad(kv.new_zeros(1, *kv.shape[1:3], 1, 1), (0, 0, 0, 0, *around), value=far)
        outside = _windows(outside, window, block).flatten(4, 5)  # (1, rows, columns, 1, W * W, 1)
    index = torch.arange(window, device=q.device) - step * torch.arange(side, device=q.device)[:, None]
    tables = [position_scale * table[index + window - 1].to(q.dtype) for table in (row_table, column_table)]

    def attend(piece: slice) -> Tensor:
        """(B, rows, columns, heads, y, x, c) of some rows of blocks."""
        q, kv = queries[:, piece], keys[:, piece]
        k, v = kv.flatten(4, 5).split((dims, kv.shape[-1] - dims), -1)
        parts = [
            scale * q,
            torch.einsum("brchyxd,yid->brchyxi", q, tables[0]),
            torch.einsum("brchyxd,xjd->brchyxj", q, tables[1]),
        ]
        of_keys = [k, places.expand(*k.shape[:-1], -1)]
        if outside is not None:
            parts.append(torch.ones_like(q[..., :1]))
            of_keys.append(outside[:, piece].expand(*k.shape[:-1], 1))
        q = torch.cat(parts, -1).flatten(4, 5)
        k = torch.cat(of_keys, -1)
        y = padded_attention(*(t.flatten(0, 2) for t in (q, k, v)), scale=1.0)
        return y.unflatten(0, kv.shape[:3]).unflatten(-2, (side, side))

    step_rows = rows_at_once(rows, len(q) * columns * heads * window**2 * (dims + 2 * window), q.device)
    y = torch.cat([attend(piece) for piece in slices(rows, step_rows)], 1)
    y = y.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)
    return y[:, :height, :width]


def _windows(x: Tensor, size: int, step: int) -> Tensor:
    """Windows of (B, H, W, heads, d): a view (B, rows, columns, heads, i, j, d)."""
    return x.unfold(1, size, step).unfold(2, size, step).movedim(4, -1)


def _places(window: int, like: Tensor) -> Tensor:
    """Which row and which column each pixel of a window has: (W * W, 2 W) of 0 and 1."""
    one = torch.eye(window, dtype=like.dtype, device=like.device)
    return torch.cat((one.repeat_interleave(window, 0), one.repeat(window, 1)), 1)


def _check(q: Tensor, kv: Tensor, tables: tuple[Tensor, Tensor], block: int, halo: int, stride: int) -> None:
    if block < 1 or halo < 0 or stride < 1 or block % stride:
        raise ValueError(
            "block must be a multiple of the stride, both at least 1, and halo at least 0, "
            f"found {block}, {stride} and {halo}"
        )
    if q.ndim != 5 or kv.ndim != 5:
        found = f"{tuple(q.shape)} and {tuple(kv.shape)}"
        raise ValueError(f"q and kv must be (B, H, W, heads, d) and (B, H, W, heads, d + c), found {found}")
    batch, height, width, heads, dims = q.shape
    sides = tuple(-(-side // stride) for side in kv.shape[1:3])
    if (len(kv), *sides, kv.shape[3]) != (batch, height, width, heads) or kv.shape[4] <= dims:
        raise ValueError(
            f"queries of {tuple(q.shape)} do not fit keys and values of {tuple(kv.shape)} and stride {stride}"
        )
    wanted = (2 * (block + 2 * halo) - 1, dims)
    for table in tables:
        if table.shape != wanted:
            raise ValueError(f"tables of positions must be {wanted}, found {tuple(table.shape)}")
