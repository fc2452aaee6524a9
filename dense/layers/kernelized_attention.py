"""Kernelised attention with relative positions, with a table for each head."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import draw_features, toeplitz_attention
from .attention import SelfAttention


class KernelizedAttention(SelfAttention):
    """Multi-head attention by positive random features and factors of offsets: (B, N, C) to the same.

    Its cost is n log n, see :func:`~dense.ops.toeplitz_attention`. The table starts with zeros, so that at
    first all places are alike. Features are drawn by ``seed`` and stay: they are a buffer that checkpoints
    have; :meth:`redraw_features` draws others, if ever.

    Source: Luo et al., "Stable, Fast and Accurate: Kernelized Attention with Relative Positional Encoding",
    NeurIPS 2021, arXiv 2106.12566.

    Args:
        embed_dims: C.
        num_heads: divides C.
        length: tokens that the table reaches; more raise a ValueError, unless ``clip``.
        grid: (height, width) instead, of tokens row by row; others' outermost offsets count as far as the
            table's. :meth:`forward` is given the grid of its tokens.
        clip: offsets beyond it count as it, so that tokens may be any number; instead of ``length``.
        causal: no token sees later ones.
        num_features: m.
        normalize: queries and keys have length one, as suits training from scratch.
        orthogonal: features are orthogonal in blocks.
        bias_bound: largest entry of the table, softly; by default none.
        qkv_bias: bias of queries, keys and values.
        method: how products are taken, by default the fastest.
        table: of another layer, to share it.
        seed: of the features.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        length: int | None = None,
        grid: Sequence[int] | None = None,
        clip: int | None = None,
        causal: bool = False,
        num_features: int = 64,
        normalize: bool = True,
        orthogonal: bool = True,
        bias_bound: float | None = None,
        qkv_bias: bool = True,
        method: str | None = None,
        table: nn.Parameter | None = None,
        seed: int = 0,
    ):
        super().__init__(embed_dims, num_heads, qkv_bias=qkv_bias)
        if sum(given is not None for given in (length, grid, clip)) != 1:
            found = f"length {length}, grid {grid} and clip {clip}"
            raise ValueError(f"exactly one of length, grid and clip sizes the table, found {found}")
        self.length, self.grid, self.clip = length, None if grid is None else tuple(grid), clip
        self.causal, self.normalize, self.orthogonal = causal, normalize, orthogonal
        self.bias_bound, self.method = bias_bound, method
        sides = grid or (length if clip is None else clip + 1,)
        shape = (num_heads, *(2 * side - 1 for side in sides))
        if table is not None and table.shape != shape:
            raise ValueError(f"a shared table must be {shape}, found {tuple(table.shape)}")
        self.bias_table = nn.Parameter(torch.zeros(shape)) if table is None else table
        self.register_buffer("features", torch.empty(num_features, embed_dims // num_heads))
        self.redraw_features(seed)

    @torch.no_grad()
    def redraw_features(self, seed: int) -> None:
        """Other random features: weights that were trained with these change what they mean."""
        generator = torch.Generator().manual_seed(seed)
        drawn = draw_features(*self.features.shape, orthogonal=self.orthogonal, generator=generator)
        self.features.copy_(drawn)

    def find_table(self, length: int, grid: tuple[int, int] | None = None) -> Tensor:
        """The table for so many tokens, or for a grid of them.

        Raises:
            ValueError: more tokens than it reaches; no grid of a table that has two sides.
        """
        if self.clip is not None:
            return self.bias_table
        if self.length is not None:
            if length > self.length:
                raise ValueError(f"found {length} tokens, but the table reaches only {self.length}")
            return self.bias_table[:, self.length - length : self.length + length - 1]
        if grid is None:
            raise ValueError(f"a table of a grid {self.grid} wants the grid of its {length} tokens")
        margins = [side - own for side, own in zip(grid, self.grid, strict=True)]
        table, (down, right) = self.bias_table, margins
        return F.pad(table[None], (right, right, down, down), "replicate")[0]

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        grid: tuple[int, int] | None = None,
        key_mask: Tensor | None = None,
    ) -> Tensor:
        grid = None if self.grid is None else grid
        return toeplitz_attention(
            q,
            k,
            v,
            self.features,
            self.find_table(k.shape[2], grid),
            normalize=self.normalize,
            causal=self.causal,
            clip=self.clip,
            grid=grid,
            key_mask=key_mask,
            bias_bound=self.bias_bound,
            method=self.method if q.shape == k.shape else None,
        )

    def weigh(self, q: Tensor, k: Tensor, *context) -> Tensor:
        own = torch.eye(k.shape[2], dtype=q.dtype, device=q.device).expand(*k.shape[:3], -1)
        return self.attend(q, k, own, *context)


def kernelized_stack(
    depth: int, *args: Any, shared_table: bool = False, seed: int = 0, **kwargs: Any
) -> list[KernelizedAttention]:
    """The attentions of so many layers: features of each layer, and one table for all or each its own.

    Args:
        depth: of the network.
        shared_table: all have the first one's table.
        seed: of the first layer's features; the next ones follow.
        *args, **kwargs: of :class:`KernelizedAttention`.
    """
    stack: list[KernelizedAttention] = []
    for i in range(depth):
        table = stack[0].bias_table if shared_table and stack else None
        stack.append(KernelizedAttention(*args, table=table, seed=seed + i, **kwargs))
    return stack


def redraw_features(network: nn.Module, seed: int) -> None:
    """Other random features in every :class:`KernelizedAttention` of a network, in their order."""
    found = (module for module in network.modules() if isinstance(module, KernelizedAttention))
    for i, attn in enumerate(found):
        attn.redraw_features(seed + i)
