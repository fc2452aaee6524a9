"""Backbones whose blocks map tokens to tokens: vision Transformers and their kin."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import ClassificationHead, PatchEmbed, TokenHead, resize_positions
from ..layers.attention import record_attention
from .backbone import BaseBackbone

Grid = tuple[int, int]


class TokenBackbone(BaseBackbone):
    """Patch embedding, prefix tokens, positions, blocks: images to tokens (B, P + h * w, C).

    The prefix is, in this order, a class token, a distillation token and registers (``registers_first`` puts
    these in front); patches follow row by row. :meth:`forward` returns maps of the patches after chosen
    blocks, :meth:`forward_features` all tokens after the last block and the last norm.

    A variant has at least the keys ``embed_dims``, ``depth``, ``patch_size`` and ``img_size``. A subclass
    makes ``blocks``, one for each ``depth``, then calls :meth:`set_outputs`. What a block needs besides
    tokens, or what is inserted between blocks, goes into :meth:`run_block`; another embedding into
    :meth:`embed`.

    Args:
        arch: see :class:`BaseBackbone`.
        img_size: of the images whose grid the table of positions has, one side or (height, width); by default
            that of the variant. Others are computed from it.
        class_token, distillation_token: have one.
        class_token_at: the block before which the class token joins the patches, without a position; by
            default it is embedded with them. Where no such block is built there is no class token.
        num_registers: tokens without a position that belong to nothing.
        registers_first: they stand before the class token.
        positions: have a learned table, with a row for each class and distillation token and each patch.
        antialias, scale_offset: how the table is resized, see :func:`~dense.layers.resize_positions`.
        norm_eps: of the last norm; None for no norm.
        **kwargs: see :class:`BaseBackbone`; ``out_indices`` are blocks.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        *,
        img_size: int | Sequence[int] | None = None,
        class_token: bool = True,
        class_token_at: int | None = None,
        distillation_token: bool = False,
        num_registers: int = 0,
        registers_first: bool = False,
        positions: bool = True,
        antialias: bool = True,
        scale_offset: float = 0.0,
        norm_eps: float | None = 1e-6,
        **kwargs,
    ):
        super().__init__(arch, lambda spec: spec["depth"], **kwargs)
        dims, patch = self.spec["embed_dims"], self.spec["patch_size"]
        size = self.spec["img_size"] if img_size is None else img_size
        self.img_size = (size, size) if isinstance(size, int) else tuple(size)
        if any(side < patch or side % patch for side in self.img_size):
            raise ValueError(f"img_size must be multiples of patches of {patch}, found {self.img_size}")
        self.grid = tuple(side // patch for side in self.img_size)
        self.antialias, self.scale_offset = antialias, scale_offset
        self.registers_first = registers_first
        self.class_token_at = class_token_at
        self.num_registers = num_registers
        self.patch_embed = PatchEmbed(self.in_channels, dims, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims)) if class_token else None
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dims)) if distillation_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, num_registers, dims)) if num_registers else None
        self.pos_embed = None
        if positions:
            prefix = (class_token and class_token_at is None) + distillation_token
            rows = prefix + self.grid[0] * self.grid[1]
            self.pos_embed = nn.Parameter(torch.zeros(1, rows, dims))
        for table in self._tables():
            nn.init.trunc_normal_(table, std=0.02)
        self.blocks = nn.ModuleList()
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(dims, norm_eps)

    def set_outputs(self) -> None:
        """To be called when ``blocks`` are there: those after the last output go."""
        dims, patch = self.spec["embed_dims"], self.spec["patch_size"]
        self.out_channels = (dims,) * len(self.out_indices)
        self.strides = (patch,) * len(self.out_indices)
        self.num_features = dims
        del self.blocks[self.out_indices[-1] + 1 :]  # they would get no gradient
        if self.class_token_at is not None and self.class_token_at >= len(self.blocks):
            self.cls_token = None
        if not self.output_norm:
            self.norm = nn.Identity()
        self._finish()

    @property
    def num_prefix_tokens(self) -> int:
        """P: class, distillation and register tokens."""
        return (self.cls_token is not None) + (self.dist_token is not None) + self.num_registers

    # ---------------------------------------------------------------------------------------------- forward

    def positions(self, grid: Grid) -> Tensor | None:
        """The table of positions of a grid: (1, class and distillation tokens + h * w, C)."""
        if self.pos_embed is None:
            return None
        how = {"antialias": self.antialias, "scale_offset": self.scale_offset}
        return resize_positions(self.pos_embed, self.grid, grid, **how)

    def embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Images (B, in_channels, H, W) to tokens (B, P + h * w, C), and h and w."""
        x = self.patch_embed(x)
        grid = tuple(x.shape[2:])
        tokens = x.flatten(2).mT  # (B, h * w, C)
        first = self.cls_token if self.class_token_at is None else None
        own = [t.expand(len(x), -1, -1) for t in (first, self.dist_token) if t is not None]
        tokens = torch.cat([*own, tokens], 1)
        if (table := self.positions(grid)) is not None:
            tokens = tokens + table
        if self.reg_token is not None:
            registers = self.reg_token.expand(len(x), -1, -1)
            parts = (registers, tokens)
            if not self.registers_first:
                parts = (tokens[:, : len(own)], registers, tokens[:, len(own) :])
            tokens = torch.cat(parts, 1)
        return tokens, grid

    def run_block(self, index: int, tokens: Tensor, grid: Grid) -> Tensor:
        """Tokens after a block."""
        return self._run(self.blocks[index], tokens)

    def iterate_blocks(
        self, x: Tensor, run_block: Callable[[int, Tensor, Grid], Tensor] | None = None
    ) -> Iterator[tuple[Tensor, Grid]]:
        """Tokens after each block that is built, un-normed, and the grid of the patches.

        ``run_block`` stands in for :meth:`run_block`; it may lengthen the prefix.
        """
        run_block = run_block or self.run_block
        self._check_images(x)
        tokens, grid = self.embed(x)
        for i in range(len(self.blocks)):
            if i == self.class_token_at and self.cls_token is not None:
                tokens = torch.cat((self.cls_token.expand(len(x), -1, -1), tokens), 1)
            tokens = run_block(i, tokens, grid)
            yield tokens, grid

    def to_map(self, tokens: Tensor, grid: Grid) -> Tensor:
        """The patches of (B, P + h * w, C) as a map (B, C, h, w)."""
        return tokens[:, tokens.shape[1] - grid[0] * grid[1] :].mT.unflatten(2, grid)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            self.to_map(self.norm(tokens), grid)
            for i, (tokens, grid) in enumerate(self.iterate_blocks(x))
            if i in self.out_indices
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """All tokens after the last block and norm: (B, P + h * w, C)."""
        *_, (tokens, _) = self.iterate_blocks(x)
        return self.norm(tokens)

    def attention_weights(self, x: Tensor, indices: Sequence[int] | None = None) -> list[Tensor]:
        """Attention weights (B, heads, N, N) of blocks, all by default, of the tokens in their order."""
        with ExitStack() as stack:
            blocks = self.blocks if indices is None else [self.blocks[i] for i in indices]
            recorded = [stack.enter_context(record_attention(block)) for block in blocks]
            self.forward_features(x)
            return [weights for found in recorded for calls in found.values() for weights in calls]

    @torch.no_grad()
    def attention_distances(self, x: Tensor, indices: Sequence[int] | None = None) -> Tensor:
        """How far each head looks: (blocks, heads), in patches, of blocks, all by default.

        The distance of a patch from the patches that it attends to, on average by the weights that it gives
        them; of that the mean over patches and images. Prefix tokens count for nothing.
        """
        self._check_images(x)
        height, width = (side // self.spec["patch_size"] for side in x.shape[2:])
        count = height * width
        places = torch.cartesian_prod(*(torch.arange(float(s), device=x.device) for s in (height, width)))
        apart, found = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist"), []
        for weights in self.attention_weights(x, indices):
            if weights.shape[-1] < count:
                raise ValueError(
                    f"distances want all {count} patches, found {weights.shape[-1]} tokens in a block"
                )
            patches = weights[..., -count:, -count:].to(apart.dtype)
            given = patches.sum(-1).clamp(min=torch.finfo(apart.dtype).tiny)
            found.append(((patches * apart).sum(-1) / given).mean((0, 2)))
        return torch.stack(found)

    # ----------------------------------------------------------------------------- classifiers and weights

    def make_head(self, num_classes: int) -> ClassificationHead:
        pool = "mean" if self.cls_token is None else "token"
        first = self.num_registers if self.registers_first else 0
        return TokenHead(
            self.num_features,
            num_classes,
            pool=pool,
            num_prefix_tokens=self.num_prefix_tokens,
            token=first,
        )

    @classmethod
    def classifier_options(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        return {"out_indices": (cls.find_arch(arch)["depth"] - 1,)}

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """A variant with the depth and the grid of positions that converted weights have."""
        start = "backbone.blocks."
        depth = len({key.removeprefix(start).split(".")[0] for key in state_dict if key.startswith(start)})
        table = state_dict.get("backbone.pos_embed")
        size = spec["img_size"]
        if table is not None:
            size = isqrt(table.shape[1]) * spec["patch_size"]  # a prefix of two makes no further side
        return {**spec, "depth": depth, "img_size": size}

    @staticmethod
    def adapt_patches(spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """A variant with the patches that converted weights of a plain patch embedding have."""
        weight = state_dict.get("backbone.patch_embed.proj.weight")
        if weight is None or weight.shape[-1] == spec["patch_size"]:
            return dict(spec)
        patch = weight.shape[-1]
        return {**spec, "patch_size": patch, "img_size": max(spec["img_size"] // patch, 1) * patch}

    def example_inputs(self, batch: int = 2, size: tuple[int, int] = (224, 224)) -> tuple[Tensor, ...]:
        patch = self.spec["patch_size"]
        return super().example_inputs(batch, tuple(max(1, round(side / patch)) * patch for side in size))

    def _frozen_modules(self) -> Sequence[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.patch_embed, *self.blocks[: self.frozen_stages]]

    def _tables(self) -> list[nn.Parameter]:
        tables = (self.cls_token, self.dist_token, self.reg_token, self.pos_embed)
        return [table for table in tables if table is not None]

    def train(self, mode: bool = True):
        super().train(mode)
        if self.frozen_stages >= 0:  # they belong to the stem
            for table in self._tables():
                table.requires_grad_(False)
        return self
