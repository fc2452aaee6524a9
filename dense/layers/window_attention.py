"""Attention between the pixels of windows, plain or shifted."""

from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import merge_windows, partition_windows, window_attention, window_mask
from .linear import Linear


class WindowAttention(nn.Module):
    """Attention between the pixels of each window: (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        num_heads: divides C.
        window_size: side of the windows in pixels; zeros complete the last ones.
        qkv_bias: bias of queries, keys and values.
        mask_padding: keep the zeros out. Else they are keys and values, equal to the biases of these.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        qkv_bias: bool = True,
        mask_padding: bool = True,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.mask_padding = mask_padding
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        size = self.window_size
        windows = partition_windows(x, size)  # (B * n, w * w, C)
        qkv = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B * n, heads, w * w, d)
        mask = None
        if self.mask_padding and (height % size or width % size):
            mask = window_mask(height, width, size, x.device).repeat(batch, 1)[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, mask)
        y = self.proj(y.transpose(1, 2).flatten(2))
        return merge_windows(y, height, width)


class PositionBias(nn.Module):
    """A number for each head and each way a key can lie to a query.

    Called, it gives (heads, M, M, K, K): of queries (y, x) of a window and of keys in the window around it.

    Args:
        num_heads: of the attention.
        window_size: M, pixels of a side of the window of queries.
        key_size: K, of that of keys, at least M; M by default.
    """

    def __init__(self, num_heads: int, window_size: int, key_size: int | None = None):
        super().__init__()
        self.key_size = window_size if key_size is None else key_size
        side = window_size + self.key_size - 1
        # at [y + M - 1, x + M - 1] for a key y, x pixels after the query (each from the corner of its window)
        self.table = nn.Parameter(torch.empty(num_heads, side, side))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self) -> Tensor:
        # the row of query 0 is the last of the windows that slide over the table
        return self.table.unfold(1, self.key_size, 1).unfold(2, self.key_size, 1).flip(1, 2)


class ShiftedWindowAttention(nn.Module):
    """Self-attention in windows, with a bias by relative position: (B, H, W, C) to the same.

    Windows are cut where they leave the map, so shifted ones at the border are smaller. Source: Liu et al.,
    "Swin Transformer", ICCV 2021, arXiv 2103.14030.

    Args:
        embed_dims: C.
        num_heads: divides C.
        window_size: side of the windows in pixels.
        shift: pixels by which windows are moved to the bottom right, less than a window.
        qkv_bias: bias of queries, keys and values.
        keep_whole: do not shift along an axis that a single window covers.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        shift: int = 0,
        qkv_bias: bool = True,
        *,
        keep_whole: bool = False,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.offset = shift - window_size if shift else 0
        self.keep_whole = keep_whole
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.bias = PositionBias(num_heads, window_size)
        self.proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        height, width, channels = x.shape[1:]
        q, kv = self.qkv(x).split((channels, 2 * channels), -1)
        offset = tuple(
            0 if self.keep_whole and side <= self.window_size else self.offset for side in (height, width)
        )
        return self.proj(window_attention(q, kv, self.bias(), self.num_heads, offset=offset))


def square_table(table: Tensor) -> Tensor:
    """(side * side, heads) as (heads, side, side)."""
    return table.T.unflatten(1, (isqrt(len(table)), -1)).contiguous()
