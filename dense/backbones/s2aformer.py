"""S2AFormer: attention whose queries and keys are thin strips, and whose keys are few.

"S2AFormer: Strip Self-Attention for Efficient Vision Transformer", 2025, arXiv 2505.22195. Its authors
published no code: what the paper leaves open is our choice, said where it is made.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys

from ..base import Backbone, register_backbone
from ..layers import (
    MLP,
    ConvNorm,
    DropPath,
    LayerNorm,
    LayerNorm2d,
    Linear,
    LocalPatchInteraction,
    PooledLinear,
    drop_path_rates,
    init_normal,
    on_channels_last,
)


class StripAttention(nn.Module):
    """Softmax attention of every position to a reduced map: (B, H, W, C) to the same.

    Queries and keys have few channels a head, one by default: then a logit is a product of two numbers. Keys
    and values come from a map that a depthwise convolution has reduced; rows and columns that fill no cell
    are left out. Logits are divided by the square root of the strip, not of a head's width. (Sizes, biases
    and norm are our choice.)

    Args:
        embed_dims: C.
        num_heads: divides C.
        reduction: sides of a cell of the reduced map, in positions; 1 for none.
        strip: channels of a head's queries and keys, at most C / num_heads.

    Raises:
        ValueError: (of a call) a map smaller than a cell.
    """

    def __init__(self, embed_dims: int, num_heads: int, reduction: int = 1, strip: int = 1):
        super().__init__()
        if num_heads < 1 or embed_dims % num_heads:
            raise ValueError(f"num_heads must divide embed_dims {embed_dims}, found {num_heads}")
        if reduction < 1 or strip < 1:
            raise ValueError(f"reduction and strip must be at least 1, found {reduction} and {strip}")
        self.num_heads, self.reduction, self.scale = num_heads, reduction, strip**-0.5
        self.q = Linear(embed_dims, num_heads * strip)
        self.k = Linear(embed_dims, num_heads * strip)
        self.v = Linear(embed_dims, embed_dims)
        self.proj = Linear(embed_dims, embed_dims)
        if reduction > 1:
            self.reduce = nn.Conv2d(embed_dims, embed_dims, reduction, reduction, groups=embed_dims)
            self.reduce_norm = LayerNorm(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1:3]
        if min(size) < self.reduction:
            raise ValueError(
                f"a map must have sides of at least {self.reduction}, which attention reduces by, "
                f"found {size[0]} x {size[1]}"
            )
        reduced = self.reduce_norm(on_channels_last(self.reduce, x)) if self.reduction > 1 else x
        q, k, v = (
            layer(y.flatten(1, 2)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, y in ((self.q, x), (self.k, reduced), (self.v, reduced))
        )
        if (missing := v.shape[-1] - q.shape[-1]) > 0:  # of one width, so that no logits are held
            q, k = F.pad(q, (0, missing)), F.pad(k, (0, missing))
        elif missing < 0:
            v = F.pad(v, (0, -missing))
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        y = y[..., : self.v.out_features // self.num_heads]
        return self.proj(y.transpose(1, 2).flatten(2)).unflatten(1, size)


class HybridPerceptionBlock(nn.Module):
    """Local convolution, strip attention, local interaction, MLP, each added: (B, H, W, C) to the same.

    The order is the paper's; norms, drop paths of the last three and the sizes are our choice.

    Args:
        embed_dims: C.
        attn: see :class:`StripAttention`.
        mlp_ratio: hidden width of the MLP, in units of C.
        drop_path_rate: of all branches but the first.
    """

    def __init__(self, embed_dims: int, attn: StripAttention, mlp_ratio: float, drop_path_rate: float = 0.0):
        super().__init__()
        self.local = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)
        self.norm1 = LayerNorm(embed_dims)
        self.attn = attn
        self.norm2 = LayerNorm(embed_dims)
        self.lim = LocalPatchInteraction(embed_dims)
        self.norm3 = LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, int(mlp_ratio * embed_dims))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + on_channels_last(self.local, x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(on_channels_last(self.lim, self.norm2(x)))
        return x + self.drop_path(self.mlp(self.norm3(x)))


class Stem(nn.Module):
    """Three normed convolutions, the first of stride 2, then the first patches: strides of 4 in all."""

    def __init__(self, in_channels: int, embed_dims: int):
        super().__init__()
        width = embed_dims // 2
        self.convs = nn.ModuleList(
            [ConvNorm(in_channels, width, 3, 2, 1), *[ConvNorm(width, width, 3, 1, 1) for _ in range(2)]]
        )
        self.proj = ConvNorm(width, embed_dims, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, "gelu")
        return self.proj(x)


def _s2aformer(
    embed_dims: Sequence[int], depths: Sequence[int], num_heads: Sequence[int] = (1, 2, 4, 8)
) -> dict[str, Any]:
    return {
        "embed_dims": tuple(embed_dims),
        "depths": tuple(depths),
        "num_heads": tuple(num_heads),
        "reductions": (8, 4, 2, 1),
        "strip": 1,
        "mlp_ratio": 4.0,
    }


@register_backbone("s2aformer")
class S2AFormer(Backbone):
    """Four stages of hybrid perception blocks; strides 4 to 32. All sizes are ours: none were published.

    Images of any size whose maps are no smaller than the cells of attention, some 32 pixels a side.
    Attention takes time quadratic in the pixels, by the square of its reduction less than a plain one.

    Args:
        arch: a variant, or a dict as those in ``archs``.
        drop_path_rate: of the last block; it grows linearly from 0.
        **kwargs: see :class:`~dense.base.Backbone`.
    """

    paper = '"S2AFormer: Strip Self-Attention for Efficient Vision Transformer", 2025, arXiv 2505.22195'
    channels_last = True
    min_size = 29
    archs = {
        "mini": _s2aformer((32, 64, 128, 256), (1, 2, 4, 1)),
        "tiny": _s2aformer((48, 96, 192, 384), (2, 2, 6, 2)),
        "small": _s2aformer((64, 128, 256, 512), (2, 2, 8, 2)),
        "medium": _s2aformer((64, 128, 320, 512), (3, 4, 12, 3), (1, 2, 5, 8)),
    }
    num_parameters = {"mini": 2_116_914, "tiny": 6_811_068, "small": 13_214_964, "medium": 23_790_150}

    def __init__(self, arch: str | Mapping[str, Any] = "tiny", *, drop_path_rate: float = 0.0, **kwargs):
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims, depths = spec["embed_dims"], spec["depths"]
        for i, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            first = i == 0
            self.downsamples.append(
                Stem(self.in_channels, dims[0]) if first else ConvNorm(dims[i - 1], dims[i], 3, 2, 1)
            )
            blocks = []
            for rate in rates:
                attn = StripAttention(dims[i], spec["num_heads"][i], spec["reductions"][i], spec["strip"])
                blocks.append(HybridPerceptionBlock(dims[i], attn, spec["mlp_ratio"], rate))
            self.stages.append(nn.Sequential(*blocks))
        init_normal(self, nn.Linear)
        self.set_outputs(dims, [4 << i for i in range(len(dims))], LayerNorm2d)

    def make_head(self, num_classes: int) -> PooledLinear:
        return PooledLinear(self.num_features, num_classes, LayerNorm(self.num_features))

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of the reference that the parity packs were made with; nothing is published."""
        block, ours = r"stages\.(\d)\.(\d+)\.", r"backbone.stages.\1.\2."
        down, stem = "backbone.downsamples.", "backbone.downsamples.0."
        renamed = rename_keys(
            cls.find_trunk(state_dict),
            [
                *[(rf"stem\.{3 * i}\.(.*)", stem + rf"convs.{i}.conv.\1") for i in range(3)],
                *[(rf"stem\.{3 * i + 1}\.(.*)", stem + rf"convs.{i}.norm.\1") for i in range(3)],
                (r"embeds\.0\.0\.(.*)", stem + r"proj.conv.\1"),
                (r"embeds\.0\.1\.(.*)", stem + r"proj.norm.\1"),
                (r"embeds\.(\d)\.0\.(.*)", down + r"\1.conv.\2"),
                (r"embeds\.(\d)\.1\.(.*)", down + r"\1.norm.\2"),
                (block + r"lim\.bn\.(.*)", ours + r"lim.norm.\3"),
                (block + r"(.*)", ours + r"\3"),
                (r"norm\.(.*)", r"head.norm.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )
        return {
            k: v.flatten(1) if ".stages." in k and v.shape[2:] == (1, 1) else v for k, v in renamed.items()
        }
