"""AttNet: attentive convolutions, whose kernels come from the image.

"Attentive Convolution: Unifying the Expressivity of Self-Attention with Convolutional Efficiency", 2025,
arXiv 2510.20092. Published code: price112/Attentive-Convolution, MIT.
"""

from collections.abc import Mapping
from functools import partial
from math import isqrt, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    ConvGLU,
    ConvNorm,
    DropPath,
    LayerNorm,
    Linear,
    PooledLinear,
    add_scaled,
    drop_path_rates,
    init_normal,
    make_scale,
    on_channels_last,
)
from ..ops import dynamic_depthwise_conv

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")


class ATConv(nn.Module):
    r"""Attentive convolution: (B, H, W, C) to the same.

    Values are convolved depthwise with one kernel an image and channel. The kernel's places are as many
    means of consecutive pixels in reading order (not of cells of the map), mixed by a linear layer that all
    channels share. From each kernel :math:`\sigma(a_c)` times its mean is taken: lateral inhibition. Zeros
    surround the map.

    The means are taken before the 1x1 convolution that makes keys of pixels, for they commute.

    Args:
        embed_dims: C.
        kernel_size: K, odd.
        act: of the means: "gelu", "gelu_tanh", "relu" or "silu".
    """

    def __init__(self, embed_dims: int, kernel_size: int = 3, act: str = "gelu"):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, found {kernel_size}")
        if act not in ACTIVATIONS:
            raise ValueError(f"act must be one of {ACTIVATIONS}, found {act!r}")
        self.kernel_size, self.act = kernel_size, act
        places = kernel_size**2
        self.kernel_proj = Linear(embed_dims, embed_dims)
        self.kernel_gen = Linear(places, places)
        self.inhibition = nn.Parameter(torch.zeros(embed_dims))  # a
        self.x_proj = Linear(embed_dims, embed_dims)
        self.proj = Linear(embed_dims, embed_dims)

    def make_kernels(self, x: Tensor) -> Tensor:
        """The kernels of maps (B, H, W, C): (B, C, K, K)."""
        # (B, 1, H * W, C): adaptive pooling of one row
        pool = partial(F.adaptive_avg_pool2d, output_size=(1, self.kernel_size**2))
        means = on_channels_last(pool, x.flatten(1, 2)[:, None])[:, 0]  # (B, K * K, C)
        if self.act == "gelu_tanh":
            means = F.gelu(self.kernel_proj(means), approximate="tanh")
        else:
            means = self.kernel_proj(means, activation=self.act)
        kernels = self.kernel_gen(means.mT)  # (B, C, K * K)
        share = self.inhibition.sigmoid()[:, None].to(kernels.dtype)
        kernels = kernels - share * kernels.mean(-1, keepdim=True)
        return kernels.unflatten(-1, (self.kernel_size, self.kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(dynamic_depthwise_conv(self.x_proj(x), self.make_kernels(x)))


class TokenATConv(ATConv):
    """Attentive convolution of the patches of a Transformer, as published for diffusion: (B, H * W, C).

    Args:
        embed_dims, kernel_size: of :class:`ATConv`.
        act: the same, by default the approximation of GELU by tanh.
        size: H and W of the map that tokens make, row by row.

    Raises:
        ValueError: (of a call) another number of tokens.
    """

    def __init__(
        self,
        embed_dims: int,
        kernel_size: int = 3,
        act: str = "gelu_tanh",
        size: tuple[int, int] = (16, 16),
    ):
        super().__init__(embed_dims, kernel_size, act)
        self.size = tuple(size)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[1] != prod(self.size):
            height, width = self.size
            raise ValueError(
                f"tokens must be (B, {height} * {width}, C) for maps of {height} x {width}, "
                f"found {tuple(x.shape)}"
            )
        return super().forward(x.unflatten(1, self.size)).flatten(1, 2)


class Block(nn.Module):
    """Attentive convolution, then a gated MLP, each on a norm, scaled and added: (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        kernel_size: of :class:`ATConv`.
        hidden_dims, glu_norm: of :class:`~dense.layers.ConvGLU`.
        layer_scale: initial factor of both branches; None for no factors.
        drop_path_rate: of both branches.
    """

    def __init__(
        self,
        embed_dims: int,
        kernel_size: int,
        hidden_dims: int,
        glu_norm: bool,
        layer_scale: float | None,
        drop_path_rate: float,
    ):
        super().__init__()
        self.norm1 = LayerNorm(embed_dims)
        self.mixer = ATConv(embed_dims, kernel_size)
        self.norm2 = LayerNorm(embed_dims)
        self.mlp = ConvGLU(embed_dims, hidden_dims, norm=glu_norm)
        self.drop_path = DropPath(drop_path_rate)
        scaled = layer_scale is not None
        self.scale1 = make_scale(embed_dims, layer_scale) if scaled else None
        self.scale2 = make_scale(embed_dims, layer_scale) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        x = add_scaled(x, self.drop_path(self.mixer(self.norm1(x))), self.scale1)
        return add_scaled(x, self.drop_path(self.mlp(self.norm2(x))), self.scale2)


class Stem(nn.Module):
    """Two normed convolutions of stride 2: (B, in_channels, H, W) to (B, C, H / 4, W / 4), rounded up."""

    def __init__(self, in_channels: int, embed_dims: int):
        super().__init__()
        self.conv1 = ConvNorm(in_channels, embed_dims // 2, 3, 2, 1)
        self.conv2 = ConvNorm(embed_dims // 2, embed_dims, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, "gelu"))


def _published(
    embed_dims: tuple[int, ...], depths: tuple[int, ...], layer_scale: bool = True, glu_norm: bool = True
) -> dict[str, Any]:
    return {
        "embed_dims": embed_dims,
        "depths": depths,
        "mlp_ratios": (8, 8, 4, 4),
        "kernel_sizes": (3, 3, 3, 3),
        "layer_scale": layer_scale,
        "glu_norm": glu_norm,
    }


@register_backbone("attnet")
class AttNet(Backbone):
    """AttNet's trunk of four stages; strides 4, 8, 16, 32. Images of any size; odd maps are rounded up.

    Args:
        arch: one of :attr:`archs`, or a mapping with its keys; ``layer_scale`` gives branches factors,
            ``glu_norm`` the gated MLPs an RMS norm.
        layer_scale_init: the first of these factors.
        drop_path_rate: of the last block; those before it rise to it linearly from 0. Published: 0 for xxs,
            then 0.02, 0.05, 0.1, 0.2, 0.4, 0.5.
        **kwargs: of :class:`Backbone`.
    """

    paper = (
        '"Attentive Convolution: Unifying the Expressivity of Self-Attention with Convolutional Efficiency", '
        "2025, arXiv 2510.20092"
    )
    code = "price112/Attentive-Convolution"
    licence = "MIT"
    archs = {
        "xxs": _published((32, 64, 128, 240), (2, 2, 4, 2), layer_scale=False, glu_norm=False),
        "xs": _published((40, 80, 160, 320), (2, 2, 7, 2), glu_norm=False),
        "s": _published((40, 80, 160, 320), (2, 3, 10, 3), layer_scale=False, glu_norm=False),
        "t1": _published((48, 96, 224, 384), (2, 3, 12, 3)),
        "t2": _published((64, 128, 288, 512), (3, 3, 16, 3)),
        "t3": _published((72, 144, 320, 576), (4, 4, 26, 4)),
        "t4": _published((96, 192, 384, 768), (5, 5, 28, 5)),
    }
    num_parameters = {
        "xxs": 2_853_556,
        "xs": 5_554_902,
        "s": 7_681_316,
        "t1": 13_714_900,
        "t2": 27_010_782,
        "t3": 49_175_682,
        "t4": 87_320_214,
    }
    published = results(("ImageNet-1K top-1, %",), {"t2": (84.4,)})
    channels_last = True
    no_weight_decay = ("inhibition",)

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "t1",
        *,
        layer_scale_init: float = 1e-6,
        drop_path_rate: float = 0.0,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims, depths = spec["embed_dims"], spec["depths"]
        scale = layer_scale_init if spec["layer_scale"] else None
        for i, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            stem = Stem(self.in_channels, dims[0])
            self.downsamples.append(ConvNorm(dims[i - 1], dims[i], 3, 2, 1) if i else stem)
            hidden = int(dims[i] * spec["mlp_ratios"][i])
            rest = spec["kernel_sizes"][i], hidden, spec["glu_norm"], scale
            self.stages.append(nn.Sequential(*[Block(dims[i], *rest, rate) for rate in rates]))
        init_normal(self, nn.Linear, nn.Conv2d)
        self.set_outputs(dims, (4, 8, 16, 32))

    def make_head(self, num_classes: int) -> PooledLinear:
        return PooledLinear(self.num_features, num_classes, nn.LayerNorm(self.num_features))

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        spec = super().adapt_arch(spec, state_dict)
        sizes = list(spec["kernel_sizes"])
        for i in range(len(sizes)):
            table = state_dict.get(f"backbone.stages.{i}.0.mixer.kernel_gen.bias")
            sizes[i] = sizes[i] if table is None else isqrt(len(table))
        own = {
            "layer_scale": any(key.endswith(".scale1") for key in state_dict),
            "glu_norm": any(key.endswith(".mlp.norm.weight") for key in state_dict),
        }
        return {**spec, "kernel_sizes": tuple(sizes), **own}

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        block = r"backbone.stages.\1.\2."
        renamed = rename_keys(
            cls.find_trunk(state_dict),
            [
                (r"downsample_layers\.0\.0\.0\.(.*)", r"backbone.downsamples.0.conv1.conv.\1"),
                (r"downsample_layers\.0\.0\.1\.(.*)", r"backbone.downsamples.0.conv1.norm.\1"),
                (r"downsample_layers\.0\.2\.0\.(.*)", r"backbone.downsamples.0.conv2.conv.\1"),
                (r"downsample_layers\.0\.2\.1\.(.*)", r"backbone.downsamples.0.conv2.norm.\1"),
                (r"downsample_layers\.(\d+)\.0\.(.*)", r"backbone.downsamples.\1.conv.\2"),
                (r"downsample_layers\.(\d+)\.1\.(.*)", r"backbone.downsamples.\1.norm.\2"),
                (r"stages\.(\d+)\.(\d+)\.token_mixer\.difference_control", block + "mixer.inhibition"),
                (r"stages\.(\d+)\.(\d+)\.token_mixer\.(.*)", block + r"mixer.\3"),
                (r"stages\.(\d+)\.(\d+)\.channel_mixer\.norm_layer\.(.*)", block + r"mlp.norm.\3"),
                (r"stages\.(\d+)\.(\d+)\.channel_mixer\.(.*)", block + r"mlp.\3"),
                (r"stages\.(\d+)\.(\d+)\.layer_scale_(\d)\.gamma", block + r"scale\3"),
                (r"stages\.(\d+)\.(\d+)\.norm_(\d)\.(.*)", block + r"norm\3.\4"),
                (r"norm\.(.*)", r"head.norm.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )
        # 1x1 convolutions are linear layers here
        return {
            key: value.flatten(1) if value.ndim == 4 and value.shape[2:] == (1, 1) else value
            for key, value in renamed.items()
        }
