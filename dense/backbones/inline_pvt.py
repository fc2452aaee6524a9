"""InLine-PVT: a pyramid of tokens with injective linear attention everywhere.

Han et al., "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024, arXiv 2412.06590.
Published code: LeapLabTHU/InLine, without a licence.
"""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from pointsuite.engine.checkpoint import rename_keys

from ..base import Backbone, register_backbone
from ..layers import (
    MLP,
    ConvLayerNorm,
    InjectiveAttention,
    PooledLinear,
    drop_path_rates,
    init_normal,
    resize_positions,
)
from ..layers.attention import join_qkv
from .inline_deit import CODE, LICENCE, PAPER
from .vit import Block

STRIDES = (4, 8, 16, 32)


class PositionedEmbed(ConvLayerNorm):
    """Patches, norm, and a learned position added: (B, in_channels, H, W) to (B, C, H / size, W / size).

    Args:
        in_channels, out_channels: of the maps.
        patch_size: pixels to a side of a patch.
        grid: side of the table of positions; others are interpolated, bilinearly.
        rounds_up: see :class:`ConvLayerNorm`.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int, grid: int, rounds_up: bool):
        super().__init__(in_channels, out_channels, patch_size, patch_size, rounds_up=rounds_up)
        self.grid = (grid, grid)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid, out_channels))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        grid = tuple(x.shape[2:])
        table = resize_positions(self.pos_embed, self.grid, grid, mode="bilinear", antialias=False)
        return x + table.unflatten(1, grid).permute(0, 3, 1, 2)


def _pvt(*depths: int) -> dict[str, Any]:
    return {
        "embed_dims": (64, 128, 320, 512),
        "depths": depths,
        "num_heads": (2, 4, 10, 16),
        "mlp_ratios": (8, 8, 4, 4),
        "img_size": 224,
    }


@register_backbone("inline_pvt")
class InLinePVT(Backbone):
    """The pyramid vision Transformer, without reductions of keys: attention is linear at full resolution.

    Args:
        arch: a published variant, or a dict as those in ``archs``; ``img_size`` is that of the tables.
        drop_path_rate: of the last block; it grows linearly from 0. Published: 0.1, large ones 0.3.
        qkv_bias: bias of queries, keys and values.
        feature: map of queries and keys, see :func:`~dense.ops.linear_attention`.
        reference_quirks: drop the rows and columns of an image that fill no patch, as published. By default
            zeros complete them.
        **kwargs: see :class:`Backbone`.
    """

    folder = "inline"
    paper, code, licence = PAPER, CODE, LICENCE
    archs = {
        "tiny": _pvt(2, 2, 2, 2),
        "small": _pvt(3, 4, 6, 3),
        "medium": _pvt(3, 4, 18, 3),
        "large": _pvt(3, 8, 27, 3),
    }
    example_arch = {"embed_dims": (16, 32, 80, 128)}
    num_parameters = {
        "tiny": 12_032_232,
        "small": 21_556_136,
        "medium": 37_618_856,
        "large": 51_154_280,
    }
    published = {
        "tiny": {"ImageNet-1K top-1, %": 78.2},
        "small": {"ImageNet-1K top-1, %": 82.0},
        "medium": {"ImageNet-1K top-1, %": 83.2},
        "large": {"ImageNet-1K top-1, %": 83.6},
    }
    channels_last = True

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.1,
        qkv_bias: bool = True,
        feature: str = "identity",
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims, side = spec["embed_dims"], spec["img_size"]
        if side < STRIDES[len(dims) - 1]:
            raise ValueError(f"img_size must be at least {STRIDES[len(dims) - 1]}, found {side}")
        if reference_quirks:
            self.min_size = STRIDES[len(dims) - 1]
        widths = (self.in_channels, *dims)
        rates = drop_path_rates(drop_path_rate, spec["depths"])
        stages = zip(dims, spec["num_heads"], spec["mlp_ratios"], rates, strict=True)
        for i, (channels, heads, ratio, of_blocks) in enumerate(stages):
            embed = PositionedEmbed(
                widths[i], channels, 2 if i else 4, side // STRIDES[i], rounds_up=not reference_quirks
            )
            blocks = nn.ModuleList()
            for rate in of_blocks:
                attn = InjectiveAttention(channels, heads, qkv_bias=qkv_bias, feature=feature)
                blocks.append(Block(channels, attn, MLP(channels, int(ratio * channels)), rate))
            self.downsamples.append(embed)
            self.stages.append(blocks)
        init_normal(self, nn.Linear)
        self.set_outputs(dims, STRIDES)

    def make_head(self, num_classes: int) -> PooledLinear:
        return PooledLinear(self.num_features, num_classes)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rules = [(r"head\.(.*)", r"head.fc.\1")]
        for i in range(4):
            rules += [
                (rf"pos_embed{i + 1}", rf"backbone.downsamples.{i}.pos_embed"),
                (rf"patch_embed{i + 1}\.(.*)", rf"backbone.downsamples.{i}.\1"),
                (
                    rf"block{i + 1}\.(\d+)\.(norm\d|mlp|attn\.(?:q|kv|proj|residual))\.(.*)",
                    rf"backbone.stages.{i}.\1.\2.\3",
                ),
            ]
        return join_qkv(rename_keys(cls.find_trunk(state_dict), rules), ("q", "kv"))

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return cls.drop_defaults(qkv_bias="backbone.stages.0.0.attn.qkv.bias" in state_dict)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        table = state_dict["backbone.downsamples.0.pos_embed"]
        return {**super().adapt_arch(spec, state_dict), "img_size": STRIDES[0] * isqrt(table.shape[1])}
