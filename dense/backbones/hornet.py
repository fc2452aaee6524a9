"""HorNet: spatial interactions of high order by recursive gated convolutions.

Rao, Zhao, Tang, Zhou, Lim, Lu, "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated
Convolutions", NeurIPS 2022, arXiv 2207.14284. Published code: raoyongming/HorNet, MIT.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    MLP,
    DropPath,
    LayerNorm,
    LayerNorm2d,
    Linear,
    PooledLinear,
    add_scaled,
    drop_path_rates,
    init_normal,
    make_scale,
    on_channels_last,
)
from ..ops import half_spectrum, invert_half_spectrum


class DepthwiseFilter(nn.Conv2d):
    """Depthwise convolution and a factor: (B, H, W, C) to the same.

    Args:
        channels: C.
        kernel_size: odd.
        scale: what the result is multiplied by; it goes into the weights.
    """

    def __init__(self, channels: int, kernel_size: int = 7, scale: float = 1.0, bias: bool = True):
        super().__init__(channels, channels, kernel_size, 1, kernel_size // 2, groups=channels, bias=bias)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias * self.scale
        return on_channels_last(lambda x: self._conv_forward(x, self.weight * self.scale, bias), x)


class GlobalLocalFilter(nn.Module):
    """Half the channels convolved 3x3, the others filtered in the frequency domain: (B, H, W, C) to the same.

    The Fourier transform runs in float32 or wider, see :func:`dense.ops.invert_half_spectrum`. Its filter,
    learned for one size of map, is resized bilinearly to that of any other.

    Args:
        channels: C, even.
        size: height of the filter, and its width: half that of the map, plus one.
        scale: what the result is multiplied by; it goes into the weights of the last norm.
    """

    def __init__(self, channels: int, size: tuple[int, int], scale: float = 1.0):
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels must be even, found {channels}")
        self.scale = scale
        self.pre_norm = LayerNorm(channels)
        self.local_filter = DepthwiseFilter(channels // 2, 3, bias=False)
        self.global_filter = nn.Parameter(torch.empty(*size, channels // 2, 2))  # real and imaginary parts
        nn.init.trunc_normal_(self.global_filter, std=0.02)
        self.post_norm = LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre_norm(x)
        near, far = x.chunk(2, -1)
        near = self.local_filter(near)
        with torch.autocast(x.device.type, enabled=False):
            far = self.filter_globally(far.to(torch.promote_types(far.dtype, torch.float32)))
        x = torch.stack((near, far.to(near.dtype)), -1).flatten(-2)  # channels of the two halves alternate
        norm = self.post_norm
        weight, bias = norm.weight * self.scale, norm.bias * self.scale
        return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)

    def filter_globally(self, x: Tensor) -> Tensor:
        spectrum = half_spectrum(x)  # (B, H, W // 2 + 1, C / 2)
        spectrum = spectrum * self.resized_filter(spectrum.shape[1:3]).to(spectrum.dtype)
        return invert_half_spectrum(spectrum, x.shape[2])

    def resized_filter(self, size: tuple[int, int]) -> Tensor:
        """The filter for spectra of ``size``: (*size, C / 2), complex."""
        weight = self.global_filter.to(torch.promote_types(self.global_filter.dtype, torch.float32))
        if weight.shape[:2] != size:
            maps = weight.flatten(2).permute(2, 0, 1)[None]
            maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
            weight = maps[0].permute(1, 2, 0).unflatten(-1, (-1, 2)).contiguous()
        return torch.view_as_complex(weight)


class GnConv(nn.Module):
    r"""Recursive gated convolution: (B, H, W, C) to the same.

    Of one projection of x come :math:`z` and, through a filter of positions, the gates
    :math:`d_0, ..., d_{n-1}` of widths :math:`C / 2^{n-1}, ..., C / 2, C`. Each step widens and gates:

    .. math:: z_0 = z \odot s d_0, \qquad z_i = (P_i z_{i-1} + b_i) \odot s d_i.

    A last projection follows. There is no activation: the result is a polynomial of degree n + 1 in x.

    Args:
        embed_dims: C, a multiple of 2^(n-1).
        order: n, the number of gates.
        scale: s.
        filter_size: of a :class:`GlobalLocalFilter`; None for a depthwise 7x7 convolution.
        project_out: end with the projection.
    """

    def __init__(
        self,
        embed_dims: int,
        order: int = 5,
        scale: float = 1.0,
        filter_size: tuple[int, int] | None = None,
        project_out: bool = True,
    ):
        super().__init__()
        narrowest, rest = divmod(embed_dims, 2 ** (order - 1))
        if rest:
            raise ValueError(
                f"embed_dims must be a multiple of 2^(order - 1), found {embed_dims} with order {order}"
            )
        self.widths = [narrowest * 2**i for i in range(order)]
        channels = sum(self.widths)
        self.proj_in = Linear(embed_dims, 2 * embed_dims)
        self.filter = (
            DepthwiseFilter(channels, scale=scale)
            if filter_size is None
            else GlobalLocalFilter(channels, filter_size, scale)
        )
        self.projections = nn.ModuleList(
            Linear(narrow, wide) for narrow, wide in zip(self.widths, self.widths[1:], strict=False)
        )
        self.proj_out = Linear(embed_dims, embed_dims) if project_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        z, gates = self.proj_in(x).split((self.widths[0], sum(self.widths)), -1)
        gates = self.filter(gates).split(self.widths, -1)
        z = z * gates[0]
        for project, gate in zip(self.projections, gates[1:], strict=True):
            z = project(z, times=gate)
        return self.proj_out(z)


class Block(nn.Module):
    """Recursive gated convolution, then MLP, each normed before and scaled after: (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        drop_path_rate: of both branches.
        layer_scale_init: initial scale of the branches; 0 for no scale.
        **kwargs: of :class:`GnConv`.
    """

    def __init__(self, embed_dims: int, drop_path_rate: float, layer_scale_init: float, **kwargs):
        super().__init__()
        self.norm1 = LayerNorm(embed_dims)
        self.gnconv = GnConv(embed_dims, **kwargs)
        self.norm2 = LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, 4 * embed_dims)
        self.drop_path1 = DropPath(drop_path_rate)
        self.drop_path2 = DropPath(drop_path_rate)
        scaled = layer_scale_init > 0
        self.gamma1 = make_scale(embed_dims, layer_scale_init) if scaled else None
        self.gamma2 = make_scale(embed_dims, layer_scale_init) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        x = add_scaled(x, self.drop_path1(self.gnconv(self.norm1(x))), self.gamma1)
        return add_scaled(x, self.drop_path2(self.mlp(self.norm2(x))), self.gamma2)


def _published(embed_dims: int, *filter_sizes: tuple[int, int]) -> dict[str, Any]:
    return {
        "embed_dims": tuple(embed_dims * 2**i for i in range(4)),
        "depths": (2, 3, 18, 2),
        "orders": (2, 3, 4, 5),
        "filter_sizes": (None, None, *(filter_sizes or (None, None))),
    }


@register_backbone("hornet")
class HorNet(Backbone):
    """HorNet's trunk; strides 4, 8, 16, 32. Images of at least 32 x 32 pixels; odd sizes are rounded down.

    Args:
        arch: one of :attr:`archs`, or a mapping with its keys; a filter size is that of a global-local filter
            (half the width plus one), None a depthwise 7x7 convolution.
        drop_path_rate: of the last block; those before it rise to it linearly from 0. Published: 0.2 for
            tiny, 0.4 for small, 0.5 for base, 0.2 for large (0.4 at 384 pixels).
        layer_scale_init: initial scale of the branches; 0 for none.
        gate_scale: factor of all gates.
        xavier_init: uniform weights after Glorot instead of normal ones.
        head_init_scale: factor of the classifier's initial weights.
        **kwargs: of :class:`Backbone`.
    """

    paper = (
        'Rao et al., "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions", '
        "NeurIPS 2022, arXiv 2207.14284"
    )
    code = "raoyongming/HorNet"
    licence = "MIT"
    archs = {
        "tiny_7x7": _published(64),
        "tiny_gf": _published(64, (14, 8), (7, 4)),
        "small_7x7": _published(96),
        "small_gf": _published(96, (14, 8), (7, 4)),
        "base_7x7": _published(128),
        "base_gf": _published(128, (14, 8), (7, 4)),
        "base_gf_img384": _published(128, (24, 13), (12, 7)),
        "large_7x7": _published(192),
        "large_gf": _published(192, (14, 8), (7, 4)),
        "large_gf_img384": _published(192, (24, 13), (12, 7)),
    }
    example_arch = {"embed_dims": (16, 32, 64, 128)}
    num_parameters = {
        "tiny_7x7": 22_409_512,
        "tiny_gf": 22_991_848,
        "small_7x7": 49_528_264,
        "small_gf": 50_401_768,
        "base_7x7": 87_256_680,
        "base_gf": 88_421_352,
        "base_gf_img384": 92_099_560,
        "large_7x7": 194_542_504,
        "large_gf": 196_289_512,
        "large_gf_img384": 201_806_824,
    }
    published = results(
        (
            "ImageNet-1K top-1, %",
            "COCO Cascade Mask R-CNN 3x box AP",
            "COCO Cascade Mask R-CNN 3x mask AP",
            "ADE20K UPerNet mIoU",
            "ADE20K UPerNet mIoU multi-scale",
        ),
        {
            "tiny_7x7": (82.8, 51.7, 44.8, 48.1, 48.9),
            "tiny_gf": (83.0, 52.4, 45.6, 49.2, 49.3),
            "small_7x7": (83.8, 52.7, 45.6, 49.2, 49.8),
            "small_gf": (84.0, 53.3, 46.3, 50.0, 50.5),
            "base_7x7": (84.2, 53.3, 46.1, 50.0, 50.5),
            "base_gf": (84.3, 54.0, 46.9, 50.5, 50.9),
            "large_7x7": (None, 55.4, 48.0, 54.1, 54.5),  # after ImageNet-22K
            "large_gf": (None, 56.0, 48.6, 55.0, 55.2),
        },
    )
    channels_last = True

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny_7x7",
        *,
        drop_path_rate: float = 0.2,
        layer_scale_init: float = 1e-6,
        gate_scale: float = 1 / 3,
        xavier_init: bool = False,
        head_init_scale: float = 1.0,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        self.xavier_init, self.head_init_scale = xavier_init, head_init_scale
        dims, depths = spec["embed_dims"], spec["depths"]
        previous = (self.in_channels, *dims)
        of_stages = drop_path_rates(drop_path_rate, depths)
        for i, (dim, order, size, rates) in enumerate(
            zip(dims, spec["orders"], spec["filter_sizes"], of_stages, strict=True)
        ):
            self.downsamples.append(_downsampling(previous[i], dim, first=i == 0))
            gnconv = {"order": order, "scale": gate_scale, "filter_size": size}
            self.stages.append(
                nn.Sequential(*[Block(dim, rate, layer_scale_init, **gnconv) for rate in rates])
            )
        _init(self, xavier_init)
        self.set_outputs(dims, (4, 8, 16, 32), LayerNorm2d)
        self.min_size = self.strides[-1]

    def make_head(self, num_classes: int) -> PooledLinear:
        init = partial(_init, xavier=self.xavier_init, scale=self.head_init_scale)
        return PooledLinear(self.num_features, num_classes, LayerNorm(self.num_features), init)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        filters = [
            state_dict.get(f"backbone.stages.{i}.0.gnconv.filter.global_filter")
            for i in range(len(spec["depths"]))
        ]
        sizes = tuple(None if weight is None else tuple(weight.shape[:2]) for weight in filters)
        return {**super().adapt_arch(spec, state_dict), "filter_sizes": sizes}

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        block = r"(stages\.\d+\.\d+)\."
        gnconv = block + r"gnconv\."
        renamed = rename_keys(
            cls.find_trunk(state_dict),
            [
                (r"downsample_layers\.(.*)", r"backbone.downsamples.\1"),
                (gnconv + r"dwconv\.complex_weight", r"backbone.\1.gnconv.filter.global_filter"),
                (gnconv + r"dwconv\.dw\.(.*)", r"backbone.\1.gnconv.filter.local_filter.\2"),
                (gnconv + r"dwconv\.(.*)", r"backbone.\1.gnconv.filter.\2"),
                (gnconv + r"pws\.(.*)", r"backbone.\1.gnconv.projections.\2"),
                (block + r"pwconv(\d)\.(.*)", r"backbone.\1.mlp.fc\2.\3"),
                (block + r"(.*)", r"backbone.\1.\2"),
                (r"norm(\d)\.(.*)", r"backbone.norms.\1.\2"),
                (r"norm\.(.*)", r"head.norm.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )
        return {key: _convert(key, value) for key, value in renamed.items()}


def _init(module: nn.Module, xavier: bool, scale: float = 1.0) -> None:
    """Initial weights, of last layers times a factor."""
    init_normal(module, nn.Conv2d, nn.Linear)
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            if xavier:
                nn.init.xavier_uniform_(layer.weight)
            if scale != 1:
                with torch.no_grad():
                    layer.weight.mul_(scale)


def _downsampling(in_channels: int, out_channels: int, first: bool) -> nn.Sequential:
    size = 4 if first else 2
    # channels last in memory, whose order is that in which initial weights are drawn
    conv = nn.Conv2d(in_channels, out_channels, size, size).to(memory_format=torch.channels_last)
    norm = LayerNorm2d(out_channels if first else in_channels)
    return nn.Sequential(conv, norm) if first else nn.Sequential(norm, conv)


def _convert(key: str, value: Tensor) -> Tensor:
    if key.endswith("global_filter"):  # (C / 2, h, w, 2)
        return value.permute(1, 2, 0, 3)
    if value.ndim == 4 and value.shape[2:] == (1, 1):  # here linear layers
        return value[:, :, 0, 0]
    return value
