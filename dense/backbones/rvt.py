"""RVT: a robust vision Transformer, with token-aware average pooling before its attention.

Mao et al., "Towards Robust Vision Transformer", CVPR 2022, arXiv 2105.07926. Guo et al., "Robustifying Token
Attention for Vision Transformers" (TAP, ADL), ICCV 2023, arXiv 2303.11126. Published code: guoyongcs/TAPADL,
MIT.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys

from ..base import Backbone, register_backbone
from ..layers import (
    ConvNorm,
    DropPath,
    LayerNorm,
    LayerNorm2d,
    PooledLinear,
    SelfAttention,
    TokenAwarePooling,
    drop_path_rates,
    init_normal,
)

GRID = 14  # of patches at 224 pixels, which a mask of attention has


class MaskedAttention(SelfAttention):
    """Attention whose logits are multiplied by learned factors in 0..1, one for each head and pair of tokens.

    A map of other sides than the mask's gets its factors from it by bilinear interpolation, of queries and
    keys; with ``reference_quirks`` the first N rows and columns, wherever they lie in the map.

    Args:
        embed_dims, num_heads: see :class:`~dense.layers.SelfAttention`.
        grid: side of the mask's map.
        reference_quirks: as published.
    """

    def __init__(self, embed_dims: int, num_heads: int, grid: int = GRID, reference_quirks: bool = False):
        super().__init__(embed_dims, num_heads)
        self.grid, self.reference_quirks = grid, reference_quirks
        self.att_mask = nn.Parameter(torch.empty(num_heads, grid**2, grid**2))
        nn.init.trunc_normal_(self.att_mask, std=0.02, a=-0.02, b=0.02)

    def factors(self, height: int, width: int) -> Tensor:
        """(heads, N, N) for a map of N = height * width tokens."""
        mask = self.att_mask
        if (height, width) != (self.grid, self.grid):
            if self.reference_quirks:
                count = height * width
                if count > mask.shape[-1]:
                    raise ValueError(
                        f"the published mask takes at most {mask.shape[-1]} tokens, found {height} x {width}"
                    )
                mask = mask[:, :count, :count]
            else:
                mask = _resize_both(mask, self.grid, height, width)
        return mask.sigmoid()

    def weigh(self, q: Tensor, k: Tensor, *grid: int) -> Tensor:
        return (self.scale * q @ k.transpose(-2, -1) * self.factors(*grid)).softmax(-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *grid: int) -> Tensor:
        return self.weigh(q, k, *grid) @ v


def _resize_both(mask: Tensor, grid: int, height: int, width: int) -> Tensor:
    """(heads, g * g, g * g) to (heads, h * w, h * w): first the keys' map, then that of the queries."""
    for _ in range(2):
        maps = mask.unflatten(2, (grid, grid))
        mask = F.interpolate(maps, (height, width), mode="bilinear", align_corners=False).flatten(2).mT
    return mask


class ConvMLP(nn.Module):
    """An MLP with a 3x3 depthwise convolution in its middle, all normed: (B, C, H, W) to the same.

    Args:
        embed_dims: C.
        hidden_dims: width between the layers.
    """

    def __init__(self, embed_dims: int, hidden_dims: int):
        super().__init__()
        self.fc1 = ConvNorm(embed_dims, hidden_dims, 1, bias=True)
        self.dwconv = ConvNorm(hidden_dims, hidden_dims, 3, padding=1, groups=hidden_dims, bias=True)
        self.fc2 = ConvNorm(hidden_dims, embed_dims, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dwconv(self.fc1(x, "gelu"), "gelu"))


class RVTBlock(nn.Module):
    """Pooling and attention, then the MLP: (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        attn: maps (B, H, W, C), H and W to (B, H, W, C).
        num_scales: of the pooling; None for none.
        mlp_ratio: hidden width of the MLP, in units of C.
        drop_path_rate: of both branches.
    """

    def __init__(
        self,
        embed_dims: int,
        attn: SelfAttention,
        num_scales: int | None,
        mlp_ratio: float,
        drop_path_rate: float,
    ):
        super().__init__()
        self.pool = nn.Identity() if num_scales is None else TokenAwarePooling(embed_dims, num_scales)
        self.norm1 = LayerNorm(embed_dims)
        self.attn = attn
        self.norm2 = LayerNorm(embed_dims)
        self.mlp = ConvMLP(embed_dims, int(mlp_ratio * embed_dims))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.drop_path(self.attn(self.norm1(pooled), *x.shape[1:3]))
        y = self.mlp(self.norm2(x).permute(0, 3, 1, 2))
        return x + self.drop_path(y.permute(0, 2, 3, 1))


class Stem(nn.Module):
    """A convolution 7x7 of stride 2, norm, maximum of stride 2, patches of 4: strides of 16 in all."""

    def __init__(self, in_channels: int, embed_dims: int):
        super().__init__()
        self.conv = ConvNorm(in_channels, 32, 7, 2, 2, bias=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.proj = nn.Conv2d(32, embed_dims, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.pool(self.conv(x)))


def _rvt(embed_dims: tuple, depths: tuple, num_heads: tuple, num_masked: int) -> dict[str, Any]:
    return {
        "embed_dims": embed_dims,
        "depths": depths,
        "num_heads": num_heads,
        "num_masked": num_masked,
        "mlp_ratio": 4.0,
    }


@register_backbone("rvt")
class RVT(Backbone):
    """Blocks of token-aware pooling, attention and a convolutional MLP on maps of stride 16, and 32 if tiny.

    Images of any size from 15 pixels; sides are cut to multiples of the stride.

    Args:
        arch: a published variant, or a dict as those in ``archs``; the first ``num_masked`` blocks have
            masked attention ("plus").
        num_scales: of the token-aware pooling; None for the plain network without it.
        drop_path_rate: of the last block; it grows linearly from 0.
        reference_quirks: see :class:`MaskedAttention`.
        **kwargs: see :class:`~dense.base.Backbone`.
    """

    folder = "tapadl"
    title = "RVT with TAP"
    paper = (
        'Guo et al., "Robustifying Token Attention for Vision Transformers", ICCV 2023, arXiv 2303.11126; '
        'Mao et al., "Towards Robust Vision Transformer", CVPR 2022, arXiv 2105.07926'
    )
    code = "guoyongcs/TAPADL"
    licence = "MIT"
    channels_last = True
    min_size = 15
    archs = {
        "tiny": _rvt((192, 384), (10, 2), (6, 12), 0),
        "tiny_plus": _rvt((192, 384), (10, 2), (6, 12), 10),
        "small": _rvt((384,), (12,), (6,), 0),
        "small_plus": _rvt((384,), (12,), (6,), 5),
        "base": _rvt((768,), (12,), (12,), 0),
        "base_plus": _rvt((768,), (12,), (12,), 5),
    }
    num_parameters = {
        "tiny": 8_744_968,
        "tiny_plus": 11_049_928,
        "small": 22_316_104,
        "small_plus": 23_468_584,
        "base": 87_091_912,
        "base_plus": 89_396_872,
    }
    published = {
        "base_plus": {
            "ImageNet-1K top-1, %": 83.1,
            "ImageNet-C mCE, %": 44.7,
            "ImageNet-A top-1, %": 32.7,
            "ImageNet-P mFR, %": 29.6,
        }
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        num_scales: int | None = 4,
        drop_path_rate: float = 0.1,
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        dims, depths = self.spec["embed_dims"], self.spec["depths"]
        masked = self.spec["num_masked"]
        for i, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            if i == 0:
                self.downsamples.append(Stem(self.in_channels, dims[0]))
            else:
                conv = nn.Conv2d(dims[i - 1], dims[i], 3, 2, 1, groups=dims[i - 1])
                self.downsamples.append(conv)
            blocks, heads = [], self.spec["num_heads"][i]
            for rate in rates:
                if masked > 0:
                    attn = MaskedAttention(dims[i], heads, GRID >> i, reference_quirks)
                else:
                    attn = SelfAttention(dims[i], heads)
                masked -= 1
                blocks.append(RVTBlock(dims[i], attn, num_scales, self.spec["mlp_ratio"], rate))
            self.stages.append(nn.Sequential(*blocks))
        init_normal(self, nn.Linear)
        self.set_outputs(dims, [16 << i for i in range(len(dims))], LayerNorm2d)

    def make_head(self, num_classes: int) -> PooledLinear:
        return PooledLinear(self.num_features, num_classes, LayerNorm(self.num_features))

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        scales = [len(v) for k, v in state_dict.items() if k.endswith(".pool.proj.0.weight")]
        return cls.drop_defaults(num_scales=scales[0] if scales else None)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """A variant with the depths and the number of masks that converted weights have."""
        masked = sum(key.endswith(".att_mask") for key in state_dict)
        return {**super().adapt_arch(spec, state_dict), "num_masked": masked}

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        block, ours = r"transformers\.(\d)\.blocks\.(\d+)\.", r"backbone.stages.\1.\2."
        return rename_keys(
            cls.find_trunk(state_dict),
            [
                (r"patch_embed\.proj\.0\.(.*)", r"backbone.downsamples.0.conv.conv.\1"),
                (r"patch_embed\.proj\.1\.(.*)", r"backbone.downsamples.0.conv.norm.\1"),
                (r"patch_embed\.proj\.3\.(.*)", r"backbone.downsamples.0.proj.\1"),
                (r"pools\.0\.conv\.(.*)", r"backbone.downsamples.1.\1"),
                (block + r"mlp\.(fc1|dwconv|fc2)\.(.*)", ours + r"mlp.\3.conv.\4"),
                (block + r"mlp\.bn1\.(.*)", ours + r"mlp.fc1.norm.\3"),
                (block + r"mlp\.bn2\.(.*)", ours + r"mlp.dwconv.norm.\3"),
                (block + r"mlp\.bn3\.(.*)", ours + r"mlp.fc2.norm.\3"),
                (block + r"dilation_predictor\.(.*)", ours + r"pool.\3"),
                (block + r"(.*)", ours + r"\3"),
                (r"norm\.(.*)", r"head.norm.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )
