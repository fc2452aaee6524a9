"""InLine-CSWin: injective linear attention on large maps, softmax attention in stripes on small ones.

Han et al., "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024, arXiv 2412.06590.
Stripes: Dong et al., "CSWin Transformer", CVPR 2022, arXiv 2107.00652. Published code: LeapLabTHU/InLine,
without a licence.
"""

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys

from ..base import Backbone, register_backbone
from ..layers import (
    MLP,
    ConvLayerNorm,
    InjectiveAttention,
    LayerNorm2d,
    Linear,
    PooledLinear,
    drop_path_rates,
    init_normal,
    on_channels_last,
)
from ..ops import map_windows
from . import vit
from .inline_deit import CODE, LICENCE, PAPER

EPS = 1e-5  # of all norms


class StripeAttention(nn.Module):
    """Attention in vertical stripes by one half of the heads, in horizontal ones by the other; or everywhere.

    A depthwise 3x3 convolution of the values (LePE) within each stripe joins. (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        num_heads: divides C; even for two branches.
        stripe: width of the stripes in pixels; None for a single branch, the whole map.
        qkv_bias: bias of queries, keys and values.
    """

    def __init__(self, embed_dims: int, num_heads: int, stripe: int | None, qkv_bias: bool = True):
        super().__init__()
        self.stripe = stripe
        count = 1 if stripe is None else 2
        if embed_dims % num_heads or num_heads % count:
            raise ValueError(f"num_heads must divide embed_dims {embed_dims} and be even, found {num_heads}")
        width = embed_dims // count
        self.num_heads = num_heads // count
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.lepe = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(count))
        self.proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        sizes = [(height, width)]
        if self.stripe is not None:
            sizes = [(height, self.stripe), (self.stripe, width)]
        branches = self.qkv(x).unflatten(-1, (3, len(sizes), -1)).unbind(-2)  # (B, H, W, 3, C / branches)
        parts = zip(self.lepe, branches, sizes, strict=True)
        return self.proj(
            torch.cat(
                [map_windows(partial(self.attend, lepe), qkv.flatten(3), size) for lepe, qkv, size in parts],
                -1,
            )
        )

    def attend(self, lepe: nn.Conv2d, qkv: Tensor) -> Tensor:
        """Queries, keys and values (n, h, w, 3 c) to (n, h, w, c)."""
        heads = qkv.flatten(1, 2).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (n, heads, h * w, d)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return y.unflatten(1, qkv.shape[1:3]) + on_channels_last(lepe, qkv.chunk(3, -1)[2])


class InjectiveBlock(vit.Block):
    """Injective attention, whose kernels come from what is not yet normed, then MLP."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x), pooled=x.mean((1, 2))))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


def _cswin(
    width: int, depths: tuple[int, ...], num_heads: tuple[int, ...], num_inline: tuple[int, ...]
) -> dict[str, Any]:
    return {
        "embed_dims": tuple(width * 2**i for i in range(4)),
        "depths": depths,
        "num_heads": num_heads,
        "num_inline": num_inline,
        "stripes": (None, None, 7, None),
    }


@register_backbone("inline_cswin")
class InLineCSWin(Backbone):
    """The CSWin Transformer with injective attention in its first stages.

    Images of any size: stripes are cut where they leave the map. The last stage attends by softmax between
    all positions, and stripes are as long as the map: time is not linear in the pixels.

    Args:
        arch: a published variant, or a dict as those in ``archs``. There, ``num_inline`` are the blocks of
            each stage, from its first, that have injective attention; the others have softmax attention in
            ``stripes`` of so many pixels, or on the whole map (None).
        drop_path_rate: of the last block; it grows linearly from 0. Published: 0.2, 0.4, 0.5.
        qkv_bias: bias of queries, keys and values.
        feature: map of queries and keys of the injective attention, see :func:`~dense.ops.linear_attention`.
        **kwargs: see :class:`Backbone`.
    """

    folder = "inline"
    paper, code, licence = PAPER, CODE, LICENCE
    archs = {
        "tiny": _cswin(64, (2, 4, 18, 1), (2, 4, 8, 16), (2, 4, 0, 0)),
        "small": _cswin(64, (3, 6, 29, 2), (2, 4, 8, 16), (3, 6, 0, 0)),
        "base": _cswin(96, (3, 6, 29, 2), (4, 8, 16, 32), (3, 6, 0, 0)),
    }
    example_arch = {"embed_dims": (16, 32, 64, 128)}
    num_parameters = {"tiny": 20_604_520, "small": 33_032_872, "base": 73_413_640}
    published = {
        "tiny": {"ImageNet-1K top-1, %": 83.2},
        "small": {"ImageNet-1K top-1, %": 83.8},
        "base": {"ImageNet-1K top-1, %": 84.5},
    }
    channels_last = True
    min_size = 3  # the stem has no kernel's width of padding

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.2,
        qkv_bias: bool = True,
        feature: str = "identity",
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims = spec["embed_dims"]
        convolution = partial(ConvLayerNorm, norm_eps=EPS, rounds_up=False)
        self.downsamples.append(convolution(self.in_channels, dims[0], 7, 4, 2))
        self.downsamples.extend(convolution(*pair, 3, 2, 1) for pair in pairwise(dims))
        rates = drop_path_rates(drop_path_rate, spec["depths"])
        stages = zip(dims, spec["num_heads"], spec["num_inline"], spec["stripes"], rates, strict=True)
        for channels, heads, num_inline, stripe, of_blocks in stages:
            blocks = nn.ModuleList()
            for i, rate in enumerate(of_blocks):
                mlp = MLP(channels, 4 * channels)
                if i < num_inline:
                    attn = InjectiveAttention(channels, heads, qkv_bias=qkv_bias, feature=feature, lepe=True)
                    blocks.append(InjectiveBlock(channels, attn, mlp, rate, norm_eps=EPS))
                else:
                    attn = StripeAttention(channels, heads, stripe, qkv_bias)
                    blocks.append(vit.Block(channels, attn, mlp, rate, norm_eps=EPS))
            self.stages.append(blocks)
        init_normal(self, nn.Linear)
        self.set_outputs(dims, (4, 8, 16, 32), partial(LayerNorm2d, eps=EPS))

    def make_head(self, num_classes: int) -> PooledLinear:
        norm = LayerNorm2d(self.num_features, EPS)
        return PooledLinear(self.num_features, num_classes, norm, norm_first=True)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state = cls.find_trunk(state_dict)
        rules = [
            (r"stage1_conv_embed\.0\.(.*)", r"backbone.downsamples.0.proj.\1"),
            (r"stage1_conv_embed\.2\.(.*)", r"backbone.downsamples.0.norm.\1"),
            (r"norm(\d\..*)", r"backbone.norms.\1"),  # of copies for detection and segmentation
            (r"norm\.(.*)", r"head.norm.\1"),
            (r"head\.(.*)", r"head.fc.\1"),
        ]
        for i in range(4):
            block, ours = rf"stage{i + 1}\.(\d+)\.", rf"backbone.stages.{i}.\1."
            rules += [
                (rf"merge{i + 1}\.conv\.(.*)", rf"backbone.downsamples.{i + 1}.proj.\1"),
                (rf"merge{i + 1}\.norm\.(.*)", rf"backbone.downsamples.{i + 1}.norm.\1"),
                (block + r"(qkv|proj)\.(.*)", ours + r"attn.\2.\3"),
                (block + r"(norm\d|mlp)\.(.*)", ours + r"\2.\3"),
                (block + r"attns\.0\.residual\.(.*)", ours + r"attn.residual.\2"),
                (block + r"attns\.(\d)\.get_v\.(.*)", ours + r"attn.lepe.\2.\3"),
            ]
        renamed = rename_keys(state, rules)
        for key in list(renamed):  # injective attention has a single branch
            start, _, kind = key.rpartition(".lepe.0.")
            if f"{start}.residual.0.weight" in renamed:
                renamed[f"{start}.lepe.{kind}"] = renamed.pop(key)
        return renamed

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return cls.drop_defaults(qkv_bias="backbone.stages.0.0.attn.qkv.bias" in state_dict)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """A variant with the depths and kinds of attention that converted weights have."""
        spec = super().adapt_arch(spec, state_dict)
        counts = [0] * len(spec["depths"])
        for key in state_dict:
            if key.endswith(".attn.residual.0.weight"):
                counts[int(key.split(".")[2])] += 1
        return {**spec, "num_inline": tuple(counts)}
