"""Neighborhood attention as a layer: sequences, maps and volumes, channels last."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import neighborhood_attention
from ..ops.neighborhood_attention import per_axis
from .linear import Linear


class NeighborhoodAttention(nn.Module):
    """Each position attends to the window around it: (B, *shape, C) to the same.

    Source: Hassani et al., "Neighborhood Attention Transformer", CVPR 2023, and what followed it; see
    :func:`dense.ops.neighborhood_attention`.

    Args:
        embed_dims: C.
        num_heads: divides C.
        window: K of each axis, or one for all.
        dilation, stride: of each axis, or one for all; None is 1.
        causal: of each axis, or of all.
        rel_pos_bias: have a learned bias for each head and relative position; not with causal axes.
        qkv_bias: bias of queries, keys and values.
        scale: of the products of queries and keys; by default the width of a head to the power -0.5.
        attn_drop, proj_drop: probabilities that a weight of the attention, or a result, is dropped in
            training.
        small_input: what to do where an axis is shorter than K times its dilation: "error"; or "pad", as
            NATTEN up to 0.15 does: zeros complete x, whose queries are dropped, but whose keys and values,
            equal to their biases, take part.

    Raises:
        ValueError: options that do not fit; (of a call) inputs that are too small.
    """

    rank: ClassVar[int]

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window: int | Sequence[int],
        dilation: int | Sequence[int | None] | None = 1,
        stride: int | Sequence[int | None] | None = 1,
        causal: bool | Sequence[bool] = False,
        *,
        rel_pos_bias: bool = True,
        qkv_bias: bool = True,
        scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        small_input: str = "error",
    ):
        super().__init__()
        if num_heads < 1 or embed_dims % num_heads:
            raise ValueError(f"num_heads must divide embed_dims {embed_dims}, found {num_heads}")
        if small_input not in ("error", "pad"):
            raise ValueError(f"small_input must be 'error' or 'pad', found {small_input!r}")
        self.num_heads = num_heads
        self.window = per_axis("window", window, self.rank, None)
        self.dilation = per_axis("dilation", dilation, self.rank, 1)
        self.stride = per_axis("stride", stride, self.rank, 1)
        self.causal = per_axis("causal", causal, self.rank, False)
        if rel_pos_bias and any(self.causal):
            raise ValueError("rel_pos_bias wants no causal axis")
        self.scale, self.small_input = scale, small_input
        self.attn_drop = attn_drop
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.rpb = None
        if rel_pos_bias:
            self.rpb = nn.Parameter(torch.empty(num_heads, *(2 * size - 1 for size in self.window)))
            nn.init.trunc_normal_(self.rpb, std=0.02)
        self.proj = Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop)

    @property
    def min_size(self) -> tuple[int, ...]:
        """Positions that each axis must have, unless small inputs are padded."""
        spans = zip(self.window, self.dilation, self.causal, strict=True)
        return tuple(1 if causal else size * spread for size, spread, causal in spans)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != self.rank + 2:
            raise ValueError(
                f"x must have {self.rank} axes between batch and channels, found {tuple(x.shape)}"
            )
        shape = x.shape[1:-1]
        missing = [max(0, least - length) for least, length in zip(self.min_size, shape, strict=True)]
        padded = self.small_input == "pad" and any(missing)
        if padded:
            x = F.pad(x, (0, 0, *(side for more in reversed(missing) for side in (0, more))))
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        y = neighborhood_attention(
            q,
            k,
            v,
            self.window,
            self.dilation,
            self.stride,
            self.causal,
            self.rpb,
            scale=self.scale,
            dropout=self.attn_drop if self.training else 0.0,
        ).flatten(-2)
        if padded:
            y = y[(slice(None), *(slice(length) for length in shape))]
        return self.proj_drop(self.proj(y))

    def extra_repr(self) -> str:
        return f"window={self.window}, dilation={self.dilation}, stride={self.stride}, causal={self.causal}"


class NeighborhoodAttention1d(NeighborhoodAttention):
    __doc__, rank = NeighborhoodAttention.__doc__, 1


class NeighborhoodAttention2d(NeighborhoodAttention):
    __doc__, rank = NeighborhoodAttention.__doc__, 2


class NeighborhoodAttention3d(NeighborhoodAttention):
    __doc__, rank = NeighborhoodAttention.__doc__, 3
