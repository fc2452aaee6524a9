"""Attention in windows of a map, of which those at the border may stick out."""

from itertools import product

from torch import Tensor
from torch.nn import functional as F

from .chunks import rows_at_once
from .windows import Size, check_offset, find_runs, view_windows


def window_attention(
    q: Tensor, kv: Tensor, bias: Tensor, num_heads: int, *, offset: Size = 0, pad_keys: bool = False
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
        offset: where the first window begins, within -M + 1..0; one number for both axes.
        pad_keys: there are zeros around the map, which are keys and values.

    Returns:
        (B, H, W, C).

    Raises:
        ValueError: shapes that do not fit, or an offset of a window or more.

    Source: Chen et al., "Activating More Pixels in Image Super-Resolution Transformer", CVPR 2023.
    """
    _check(q, kv, bias, num_heads)
    size, keys = bias.shape[2], bias.shape[4]
    offsets = check_offset(offset, (size, size))
    margin = (keys - size) // 2
    if pad_keys:
        around = (margin, keys - size - margin)
        kv, margin = F.pad(kv, (0, 0, *around, *around)), 0
    bias = bias.to(q.dtype)
    y = q.new_empty(q.shape)
    row_runs, column_runs = (
        find_runs(q.shape[axis], size, keys, first, margin, kv.shape[axis])
        for axis, first in zip((1, 2), offsets, strict=True)
    )
    for rows, columns in product(row_runs, column_runs):
        piece_bias = bias[:, rows.queries, columns.queries, rows.keys, columns.keys]
        piece_bias = piece_bias.flatten(3, 4).flatten(1, 2)[None]  # (1, heads, n, m)
        across = len(q) * columns.count * piece_bias.shape[3] * kv.shape[3]
        for piece in rows.pieces(rows_at_once(rows.count, across, q.device)):
            queries = view_windows(q, piece, columns)  # (B, rows, columns, h, w, C)
            keys_values = view_windows(kv, piece, columns, of_keys=True)
            heads = queries.flatten(3, 4).flatten(0, 2).unflatten(-1, (num_heads, -1))
            k, v = keys_values.flatten(3, 4).flatten(0, 2).unflatten(-1, (2, num_heads, -1)).unbind(2)
            attended = F.scaled_dot_product_attention(
                heads.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), piece_bias
            )  # (windows, heads, n, d)
            view_windows(y, piece, columns).copy_(attended.transpose(1, 2).reshape(queries.shape))
    return y


def _check(q: Tensor, kv: Tensor, bias: Tensor, num_heads: int) -> None:
    if q.ndim != 4 or kv.shape != (*q.shape[:3], 2 * q.shape[3]):
        found = f"{tuple(q.shape)} and {tuple(kv.shape)}"
        raise ValueError(f"q and kv must be (B, H, W, C) and (B, H, W, 2 C), found {found}")
    if num_heads < 1 or q.shape[3] % num_heads:
        raise ValueError(f"num_heads must divide the {q.shape[3]} channels, found {num_heads}")
    size, keys = bias.shape[1:2], bias.shape[3:4]
    if bias.shape != (num_heads, *size, *size, *keys, *keys) or not size or keys < size:
        raise ValueError(f"bias must be ({num_heads}, M, M, K, K), K at least M, found {tuple(bias.shape)}")
