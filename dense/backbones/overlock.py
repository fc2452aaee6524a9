"""OverLoCK: an overview of the image first, then a closer look with kernels that the overview helps to make.

Lou, Yu, "OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic Kernels", CVPR
2025, arXiv 2502.20087. Published code: LMMMEng/OverLoCK, Apache-2.0.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import count_parts, rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    ClassificationHead,
    ConvNorm,
    DropPath,
    GlobalResponseNorm,
    LayerNorm2d,
    MergedConv,
    NormConv,
    ReparameterizedConv,
    SqueezeExcitation,
    dilate_kernel,
    drop_path_rates,
    fold_norm,
    fold_norm_before,
    identity_kernel,
    init_normal,
    make_classifier,
    pad_kernel,
)
from ..ops import context_mixing

GRID = 7  # the context is seen in so many rows and columns
HEAD_DIMS = 1024
# of the branches beside a large kernel: (size, dilation)
BRANCHES = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 1), (3, 2), (3, 3)),
    9: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (7, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    19: ((5, 1), (7, 1), (9, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}


# ------------------------------------------------------------------------------------------------- layers


class ResidualDepthwise(ReparameterizedConv):
    """x + depthwise 3x3 convolution of x, one convolution at evaluation: (B, C, H, W) to the same."""

    def __init__(self, channels: int):
        super().__init__(padding=1, groups=channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward_branches(self, x: Tensor) -> Tensor:
        return x + self.conv(x)

    def merge(self) -> tuple[Tensor, Tensor]:
        return self.conv.weight + identity_kernel(self.conv.weight), self.conv.bias


class DilatedReparam(ReparameterizedConv):
    """Norm of a depthwise convolution with a large kernel and some with small or dilated ones, each normed;
    one convolution at evaluation: (B, C, H, W) to the same.

    Args:
        channels: C.
        kernel_size: of the large one, a key of :data:`BRANCHES`.
    """

    used_in_parts = ("small",)

    def __init__(self, channels: int, kernel_size: int):
        if kernel_size not in BRANCHES:
            raise ValueError(f"kernel_size must be one of {list(BRANCHES)}, found {kernel_size}")
        super().__init__(padding=kernel_size // 2, groups=channels)

        def branch(size: int, dilation: int = 1) -> ConvNorm:
            padding = size // 2 * dilation
            return ConvNorm(channels, channels, size, 1, padding, channels, dilation=dilation)

        self.large = branch(kernel_size)
        self.small = nn.ModuleDict({f"{k}_{rate}": branch(k, rate) for k, rate in BRANCHES[kernel_size]})
        self.norm = nn.BatchNorm2d(channels)

    def forward_branches(self, x: Tensor) -> Tensor:
        y = self.large(x)
        for branch in self.small.values():
            y = y + branch(x)
        return self.norm(y)

    def merge(self) -> tuple[Tensor, Tensor]:
        return fold_norm(*self.merge_branches(), self.norm)

    def merge_branches(self) -> tuple[Tensor, Tensor]:
        """The convolution before the last norm, which published merged weights have."""
        weight, bias = self.large.merge()
        for branch in self.small.values():
            kernel, shift = branch.merge()
            weight = weight + pad_kernel(dilate_kernel(kernel, branch.conv.dilation[0]), weight.shape[-1])
            bias = bias + shift
        return weight, bias


class Affine(nn.Module):
    """A factor, 1 or ``init`` at first, and a shift for each channel: (B, C, H, W) to the same."""

    def __init__(self, channels: int, init: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), float(init)))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])


class FeedForward(nn.Module):
    """1x1 convolution, GELU, depthwise convolution, response norm, 1x1 convolution: (B, C, H, W) to the same.

    Args:
        channels: C.
        hidden: channels between the two 1x1 convolutions.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = MergedConv(channels, hidden, 1)
        self.dwconv = ResidualDepthwise(hidden)
        self.norm = GlobalResponseNorm(hidden)
        self.fc2 = MergedConv(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.norm(self.dwconv(self.fc1(x, "gelu"))))


def squeeze_excitation(channels: int) -> SqueezeExcitation:
    return SqueezeExcitation(channels, max(16, channels // 8), "gelu")


def make_affine(channels: int, init: float | None) -> nn.Module:
    return nn.Identity() if init is None else Affine(channels, init)


# ------------------------------------------------------------------------------------------------- blocks


class RepConvBlock(nn.Module):
    """Depthwise convolution with a large kernel, gates of channels, feed-forward: (B, C, H, W) to the same.

    Args:
        channels: C.
        kernel_size: see :class:`DilatedReparam`.
        mlp_ratio: hidden channels of the feed-forward to C.
        layer_scale: initial factor of the residual path; none where None.
        res_scale: the factor is that of the path, else that of the branch.
        drop_path: of the branch.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        mlp_ratio: float = 4,
        layer_scale: float | None = None,
        res_scale: bool = True,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.res_scale = res_scale
        self.dwconv = ResidualDepthwise(channels)
        self.norm = LayerNorm2d(channels)
        self.large = DilatedReparam(channels, kernel_size)
        self.se = squeeze_excitation(channels)
        self.mlp = FeedForward(channels, int(mlp_ratio * channels))
        self.ls = make_affine(channels, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dwconv(x)
        y = self.mlp(self.se(self.large(self.norm(x))))
        return self.ls(x) + self.drop_path(y) if self.res_scale else x + self.drop_path(self.ls(y))


class ContextMixing(nn.Module):
    """Kernels of each position, from how alike it is to each part of a context, applied to a map of values.

    Queries are compared with the context in a grid of 7x7. An affine map makes the 49 products the logits of
    two kernels, to which biases of relative positions are added. The first half of the channels takes the
    small kernel, the other the large one. Maps that are smaller than the large kernel are enlarged, and the
    result is reduced to their size.

    Args:
        channels: C, of queries and values.
        context_channels: E.
        num_heads: h; each half has 2 h groups of channels, which share kernels.
        kernel_size: of the large kernel.
        small_kernel: of the small one.
    """

    def __init__(
        self, channels: int, context_channels: int, num_heads: int, kernel_size: int, small_kernel: int = 5
    ):
        super().__init__()
        self.groups = 2 * num_heads
        if channels % (2 * self.groups):
            raise ValueError(f"channels must be a multiple of {2 * self.groups}, found {channels}")
        if small_kernel > kernel_size:
            raise ValueError(f"the small kernel must be at most {kernel_size}, found {small_kernel}")
        self.scale = (channels // self.groups) ** -0.5  # as published; queries are half as wide
        self.sizes = (small_kernel, kernel_size)
        self.query = ConvNorm(channels, channels // 2, 1)
        self.key = ConvNorm(context_channels, channels // 2, 1)
        self.proj = nn.Linear(GRID**2, small_kernel**2 + kernel_size**2)
        self.rpb = nn.ParameterList(
            torch.zeros(self.groups, 2 * size - 1, 2 * size - 1) for size in self.sizes
        )

    def forward(self, x: Tensor, context: Tensor, values: Tensor) -> Tensor:
        """Of (B, C, H, W), (B, E, H, W) and (B, C, H, W): (B, C, H, W)."""
        height, width = size = x.shape[2:]
        large = self.sizes[1]
        if min(size) < large:
            # truncated as published, but where rounding would leave less than the kernel
            enlarged = (
                (large, max(large, int(large / height * width)))
                if height < width
                else (max(large, int(large / width * height)), large)
            )
            x, context, values = (F.interpolate(t, enlarged, mode="bilinear") for t in (x, context, values))
        queries = self.query(x).permute(0, 2, 3, 1).unflatten(3, (self.groups, -1))
        keys = self.key(F.adaptive_avg_pool2d(context, GRID)).flatten(2).unflatten(1, (self.groups, -1))
        # the affine map of products is the products with mapped keys, which are as wide as a group
        weights, offsets = (self.proj.weight * self.scale), self.proj.bias
        taps = weights.to(keys.dtype) @ keys.mT  # (B, G, S * S + K * K, C / 2 G)
        halves = values.permute(0, 2, 3, 1).unflatten(3, (2, self.groups, -1)).unbind(3)
        areas = [side**2 for side in self.sizes]
        parts = zip(self.sizes, taps.split(areas, 2), offsets.split(areas), self.rpb, halves, strict=True)
        y = torch.cat(
            [
                context_mixing(queries, own, offset.to(own.dtype), bias.to(own.dtype), half.to(own.dtype), n)
                for n, own, offset, bias, half in parts
            ],
            3,
        )
        y = y.flatten(3).permute(0, 3, 1, 2)
        return F.adaptive_avg_pool2d(y, size) if y.shape[2:] != size else y


class FusedValues(nn.Module):
    """Values of a map and its context: (B, C + E, H, W) to (B, C, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = ConvNorm(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=True)
        self.fc = MergedConv(in_channels, out_channels, 1)
        self.norm = GlobalResponseNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc(self.conv(x, "gelu")))


class ContMixBlock(nn.Module):
    """Context mixing beside a convolution with a large kernel, gated; feed-forward: (B, C + E, H, W) to the
    same. Without a context, E = 0, it is a block for any network, whose map is its own context.

    Args:
        channels: C.
        kernel_size: of the large dynamic kernel, and of the convolution beside it.
        num_heads: h, see :class:`ContextMixing`.
        context_channels: E.
        small_kernel: of the small dynamic kernel.
        mlp_ratio: hidden channels of the feed-forward to C.
        layer_scale: initial factor of the residual path; none where None.
        res_scale: the factors are those of the path, else those of the branches.
        drop_path: of both branches.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        num_heads: int,
        *,
        context_channels: int = 0,
        small_kernel: int = 5,
        mlp_ratio: float = 4,
        layer_scale: float | None = None,
        res_scale: bool = False,
        drop_path: float = 0.0,
    ):
        super().__init__()
        total = channels + context_channels
        self.parts = (channels, context_channels)
        self.res_scale = res_scale
        self.dwconv1 = ResidualDepthwise(total)
        self.norm1 = LayerNorm2d(total)
        self.mixing = ContextMixing(
            channels, context_channels or channels, num_heads, kernel_size, small_kernel
        )
        self.value = FusedValues(total, channels) if context_channels else ConvNorm(channels, channels, 1)
        self.gate = ConvNorm(channels, channels, 1)
        self.large = DilatedReparam(channels, kernel_size)
        self.fusion = ConvNorm(channels, channels, 1)
        self.se = squeeze_excitation(channels)
        self.proj = NormConv(channels, total)
        self.dwconv2 = ResidualDepthwise(total)
        self.norm2 = LayerNorm2d(total)
        self.mlp = FeedForward(total, int(mlp_ratio * channels))
        self.ls1 = make_affine(total, layer_scale)
        self.ls2 = make_affine(total, layer_scale)
        self.drop_path = DropPath(drop_path)
        if not context_channels:
            for table in self.mixing.rpb:
                nn.init.trunc_normal_(table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dwconv1(x)
        normed = self.norm1(x)
        values = self.value(normed)
        if self.parts[1]:
            own, context = (
                part.contiguous(memory_format=torch.channels_last) for part in normed.split(self.parts, 1)
            )
            y = self.fusion(self.mixing(own, context, values))
            seen = values
        else:
            y = self.fusion(self.mixing(normed, normed, values))
            seen = normed
        y = self.se(y + self.large(seen))
        x = self._add(x, self.proj(self.gate(seen, "silu") * y), self.ls1)
        x = self.dwconv2(x)
        return self._add(x, self.mlp(self.norm2(x)), self.ls2)

    def _add(self, x: Tensor, branch: Tensor, scale: nn.Module) -> Tensor:
        if self.res_scale:
            return scale(x) + self.drop_path(branch)
        return x + self.drop_path(scale(branch))


class DynamicConvBlock(ContMixBlock):
    """:class:`ContMixBlock` of a map and its context, which recalls the overview first.

    Takes (B, C + E, H, W), and the overview (B, E, H, W).

    Args:
        is_first: the context is still the overview itself.
        **kwargs: see :class:`ContMixBlock`.
    """

    def __init__(self, *args, is_first: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        width = self.parts[1]
        self.x_scale = None if is_first else Affine(width)
        self.h_scale = None if is_first else Affine(width)

    def forward(self, x: Tensor, overview: Tensor) -> Tensor:
        if self.x_scale is not None:
            x, context = x.split(self.parts, 1)
            x = torch.cat((x, self.x_scale(context) + self.h_scale(overview)), 1)
        return super().forward(x)


# ------------------------------------------------------------------------------------------------- network


class Stem(nn.Module):
    """Four convolutions, two of stride 2: (B, in_channels, H, W) to (B, C, H / 4, W / 4), rounded up."""

    def __init__(self, in_channels: int, embed_dims: int):
        super().__init__()
        half = embed_dims // 2
        shapes = ((in_channels, half, 2), (half, half, 1), (half, embed_dims, 2), (embed_dims, embed_dims, 1))
        self.convs = nn.ModuleList(ConvNorm(a, b, 3, stride, 1) for a, b, stride in shapes)

    def forward(self, x: Tensor) -> Tensor:
        *convs, last = self.convs
        for conv in convs:
            x = conv(x, "gelu")
        return last(x)


class ContextDownsample(nn.Module):
    """Convolutions of stride 2 of a map and of its context: (B, C + E, H, W) to (B, D + E, H / 2, W / 2)."""

    def __init__(self, in_channels: int, out_channels: int, context_channels: int):
        super().__init__()
        self.parts = (in_channels, context_channels)
        self.x_proj = ConvNorm(in_channels, out_channels, 3, 2, 1)
        self.h_proj = ConvNorm(context_channels, context_channels, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, context = x.split(self.parts, 1)
        return torch.cat((self.x_proj(x), self.h_proj(context)), 1)


class Overview(nn.Module):
    """The part of the network that looks first: a downsampling, ``blocks``, and a projection of what these
    find to what guides the second look.
    """

    def __init__(self, in_channels: int, out_channels: int, blocks: nn.Sequential):
        super().__init__()
        self.downsample = ConvNorm(in_channels, out_channels, 3, 2, 1)
        self.blocks = blocks
        self.proj = MergedConv(out_channels, out_channels // 4, 1)


class AuxiliaryHead(nn.Module):
    """Norm, mean over positions, Linear: (B, C, H, W) to (B, num_classes)."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.fc = make_classifier(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(x).mean((2, 3)))


class Head(ClassificationHead):
    """1x1 convolution, norm, SiLU, mean over positions, Linear: (B, C, H, W) to (B, num_classes).

    In training it takes also what the overview found, and classifies that, too, by a head beside.

    Args:
        in_channels: C.
        overview_channels: of the overview; None for none.
        num_classes: of both.
    """

    aux_weight = 0.4

    def __init__(self, in_channels: int, overview_channels: int | None, num_classes: int):
        super().__init__(HEAD_DIMS, num_classes)
        self.conv = ConvNorm(in_channels, HEAD_DIMS, 1)
        self.aux = None if overview_channels is None else AuxiliaryHead(overview_channels, num_classes)

    def pre_logits(self, features: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        features = features if isinstance(features, Tensor) else features[0]
        return self.conv(features, "silu").mean((2, 3))

    def forward(self, features: Any, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        y = super().forward(features, pre_logits)
        if pre_logits or isinstance(features, Tensor):
            return y
        return y, self.aux(features[1])

    def loss(self, outputs: tuple[Tensor, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Cross-entropies of logits (B, num_classes) and, times 0.4, of those of the overview."""
        logits, auxiliary = outputs
        return {
            "loss": F.cross_entropy(logits, targets),
            "loss_aux": self.aux_weight * F.cross_entropy(auxiliary, targets),
        }


def _overlock(
    embed_dims: Sequence[int], depths: Sequence[int], sub_depths: Sequence[int], num_heads: Sequence[int]
) -> dict[str, Any]:
    return {
        "embed_dims": embed_dims,
        "depths": depths,
        "sub_depths": sub_depths,
        "num_heads": num_heads,
        "kernel_sizes": (17, 15, 13, 7),
        "small_kernel": 5,
        "mlp_ratios": (4, 3),
    }


@register_backbone("overlock")
class OverLoCK(Backbone):
    """OverLoCK: two stages and a base, from which an overview is made; with it two stages look closely.

    Maps have strides 4, 8, 16 and 32; the last two are those of the closer look and hold the context behind
    their own channels, an extra quarter of the overview's. Images of any size; odd maps are rounded up.

    Args:
        arch: a published variant, or a dict as those in ``archs``: ``depths`` are those of the stages, the
            base and the overview, ``sub_depths`` those of the closer look, whose blocks have ``num_heads``.
            The first of ``mlp_ratios`` is that of plain blocks, the second that of dynamic ones.
        drop_path_rate: of the last block; it grows linearly from 0 over all blocks, as they are named above.
            Published: 0.1, 0.15, 0.4, 0.5.
        **kwargs: see :class:`~dense.base.Backbone`.
    """

    paper = (
        'Lou, Yu, "OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic Kernels"'
        ", CVPR 2025, arXiv 2502.20087"
    )
    code = "LMMMEng/OverLoCK"
    licence = "Apache-2.0"
    archs = {
        "xt": _overlock((56, 112, 256, 336), (2, 2, 3, 2), (6, 2), (4, 6)),
        "t": _overlock((64, 128, 256, 512), (4, 4, 6, 2), (12, 2), (4, 8)),
        "s": _overlock((64, 128, 320, 512), (6, 6, 8, 3), (16, 3), (8, 16)),
        "b": _overlock((80, 160, 384, 576), (8, 8, 10, 4), (20, 4), (6, 9)),
    }
    num_parameters = {"xt": 17_307_272, "t": 34_990_472, "s": 58_309_772, "b": 98_012_968}
    published = results(
        (
            "ImageNet-1K top-1, %",
            "COCO Mask R-CNN 1x box AP",
            "COCO Mask R-CNN 1x mask AP",
            "COCO Mask R-CNN 3x box AP",
            "COCO Mask R-CNN 3x mask AP",
            "ADE20K UPerNet mIoU, %",
        ),
        {
            "xt": (82.7, None, None, None, None, None),
            "t": (84.2, 48.3, 43.3, 49.6, 43.9, 50.3),
            "s": (84.8, 49.4, 44.0, 51.0, 45.0, 51.3),
            "b": (85.1, 49.9, 44.4, 51.4, 45.3, 51.7),
        },
    )

    def __init__(self, arch: str | Mapping[str, Any] = "xt", *, drop_path_rate: float = 0.0, **kwargs):
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims, kernels, context = spec["embed_dims"], spec["kernel_sizes"], spec["embed_dims"][3] // 4
        rates = drop_path_rates(drop_path_rate, (*spec["depths"], *spec["sub_depths"]))

        def plain(i: int) -> nn.Sequential:
            scale, ratio = (1.0 if i > 1 else None), spec["mlp_ratios"][0]
            blocks = [RepConvBlock(dims[i], kernels[i], ratio, scale, drop_path=rate) for rate in rates[i]]
            return nn.Sequential(*blocks)

        for i in range(2):
            width = dims[i - 1] if i else self.in_channels
            self.downsamples.append(ConvNorm(width, dims[i], 3, 2, 1) if i else Stem(width, dims[i]))
            self.stages.append(plain(i))
        self.base = self.overview = None
        if self.out_indices[-1] > 1:
            self.downsamples.append(ConvNorm(dims[1], dims[2], 3, 2, 1))
            self.base = plain(2)
            self.overview = Overview(dims[2], dims[3], plain(3))
            self.downsamples.append(ContextDownsample(dims[2], dims[3], context))
            for i, heads in enumerate(spec["num_heads"]):
                options = {
                    "context_channels": context,
                    "small_kernel": spec["small_kernel"],
                    "mlp_ratio": spec["mlp_ratios"][1],
                    "layer_scale": 1.0,
                    "res_scale": True,
                }
                blocks = [
                    DynamicConvBlock(
                        dims[2 + i], kernels[2 + i], heads, is_first=i == j == 0, drop_path=rate, **options
                    )
                    for j, rate in enumerate(rates[4 + i])
                ]
                self.stages.append(nn.Sequential(*blocks))
        init_normal(self, nn.Conv2d, nn.Linear)
        widths = (*dims[:2], dims[2] + context, dims[3] + context)
        self.set_outputs(widths, (4, 8, 16, 32), LayerNorm2d)

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        arch = dict(cls.archs["xt"], depths=(1, 1, 1, 1), sub_depths=(2, 1))
        return cls.create(arch, **options)

    def iterate_stages(self, x: Tensor) -> Iterator[Tensor]:
        for i, y in enumerate(self._iterate_base(x)):
            if i < 2:
                yield y
        if self.overview is not None:
            yield from self._iterate_focus(y, self._look(y))

    def forward_features(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """The map of the last stage that is built, un-normed, (B, num_features, H', W'); in training also
        what the overview found, which an auxiliary head takes.
        """
        if self.overview is None or not self.training:
            return super().forward_features(x)
        *_, x = self._iterate_base(x)
        found = self._look(x)
        *_, y = self._iterate_focus(x, found)
        return y, found

    @torch.no_grad()
    def guidance(self, x: Tensor) -> Tensor:
        """What the overview tells the closer look of images (B, in_channels, H, W): (B, E, H', W'), at
        stride 32.
        """
        if self.overview is None:
            raise ValueError(f"there is an overview from out_indices 2 on, found {self.out_indices}")
        *_, x = self._iterate_base(x)
        return self.overview.proj(self._look(x))

    def _iterate_base(self, x: Tensor) -> Iterator[Tensor]:
        """The maps of the first two stages and of the base."""
        self._check_images(x)
        x = x.contiguous(memory_format=torch.channels_last)
        for downsample, blocks in zip(self.downsamples, (*self.stages[:2], self.base), strict=False):
            x = downsample(x)
            for block in blocks:
                x = self._run(block, x)
            yield x

    def _look(self, x: Tensor) -> Tensor:
        """The base's map to what the overview finds, at half its size."""
        x = self.overview.downsample(x)
        for block in self.overview.blocks:
            x = self._run(block, x)
        return x

    def _iterate_focus(self, x: Tensor, found: Tensor) -> Iterator[Tensor]:
        """The maps of the last two stages, from that of the base and what the overview found."""
        small = self.overview.proj(found)
        guide = F.interpolate(small, x.shape[2:], mode="bilinear")
        x = torch.cat((x, guide), 1)
        for i, blocks in enumerate(self.stages[2:]):
            if i:
                x, guide = self.downsamples[3](x), small
            for block in blocks:
                x = self._run(block, x, guide)
            yield x

    def _frozen_modules(self) -> Sequence[nn.Module]:
        looked = [self.base, self.overview] if self.frozen_stages > 2 and self.overview is not None else []
        return [*super()._frozen_modules(), *looked]

    # ----------------------------------------------------------------------------- classifiers and weights

    def make_head(self, num_classes: int) -> Head:
        return Head(self.num_features, self.overview and self.spec["embed_dims"][3], num_classes)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        parts = ("stages.0.", "stages.1.", "base.", "overview.blocks.", "stages.2.", "stages.3.")
        depths = tuple(count_parts(state_dict, f"backbone.{part}") for part in parts)
        return {**spec, "depths": depths[:4], "sub_depths": depths[4:]}

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' weights; of their merged form all else is merged, too, as ``deploy`` has it."""
        blocks: dict[str, dict[str, Tensor]] = {}
        others = {}
        for key, value in cls.find_trunk(state_dict).items():
            if match := re.fullmatch(r"((?:sub_)?blocks\d)\.(\d+)\.(.*)", key):
                blocks.setdefault(f"backbone.{PLACES[match[1]]}.{match[2]}.", {})[match[3]] = value
            else:
                others[key] = value
        renamed = rename_keys(
            others,
            [
                *[
                    (rf"patch_embed1\.{3 * i + j}\.(.*)", rf"backbone.downsamples.0.convs.{i}.{layer}.\1")
                    for i in range(4)
                    for j, layer in enumerate(("conv", "norm"))
                ],
                *[
                    (rf"{old}\.{j}\.(.*)", rf"backbone.{new}.{layer}.\1")
                    for old, new in DOWNSAMPLES.items()
                    for j, layer in enumerate(("conv", "norm"))
                ],
                (r"high_level_proj\.(.*)", r"backbone.overview.proj.\1"),
                (r"extra_norm\.(\d)\.(.*)", r"backbone.norms.\1.\2"),
                (r"aux_head\.0\.(.*)", r"head.aux.norm.\1"),
                (r"aux_head\.2\.(.*)", r"head.aux.fc.\1"),
                (r"head\.0\.(.*)", r"head.conv.conv.\1"),
                (r"head\.1\.(.*)", r"head.conv.norm.\1"),
                (r"head\.4\.(.*)", r"head.fc.\1"),
            ],
        )
        renamed = {
            key: value.flatten(1) if key.endswith(".fc.weight") else value for key, value in renamed.items()
        }
        for prefix, block in blocks.items():
            renamed |= {f"{prefix}{key}": value for key, value in rename_block(block).items()}
        merged = any(key.endswith("lk_origin.bias") for key in state_dict)
        return merge_weights(renamed) if merged else renamed


PLACES = {
    "blocks1": "stages.0",
    "blocks2": "stages.1",
    "blocks3": "base",
    "blocks4": "overview.blocks",
    "sub_blocks3": "stages.2",
    "sub_blocks4": "stages.3",
}
DOWNSAMPLES = {
    "patch_embed2": "downsamples.1",
    "patch_embed3": "downsamples.2",
    "patch_embed4": "overview.downsample",
    r"patch_embedx\.x_proj": "downsamples.3.x_proj",
    r"patch_embedx\.h_proj": "downsamples.3.h_proj",
}
PLAIN_BLOCK = {
    "dwconv": "dwconv.conv",
    "proj.0": "norm",
    "proj.1": "large",
    "proj.2": "large.norm",
    "proj.3.proj.1": "se.fc1",
    "proj.3.proj.3": "se.fc2",
    "proj.4": "mlp.fc1",
    "proj.6": "mlp.dwconv.conv",
    "proj.7": "mlp.norm",
    "proj.8": "mlp.fc2",
    "ls": "ls",
}
DYNAMIC_BLOCK = {
    "rpb1": "mixing.rpb.0",
    "rpb2": "mixing.rpb.1",
    "x_scale": "x_scale",
    "h_scale": "h_scale",
    "dwconv1": "dwconv1.conv",
    "norm1": "norm1",
    "fusion.0": "value.conv.conv",
    "fusion.1": "value.conv.norm",
    "fusion.3": "value.fc",
    "fusion.4": "value.norm",
    "weight_query.0": "mixing.query.conv",
    "weight_query.1": "mixing.query.norm",
    "weight_key.1": "mixing.key.conv",
    "weight_key.2": "mixing.key.norm",
    "weight_value.0": "value.conv",
    "weight_value.1": "value.norm",
    "weight_proj": "mixing.proj",
    "(?:dyconv|fusion)_proj.0": "fusion.conv",
    "(?:dyconv|fusion)_proj.1": "fusion.norm",
    "lepe.0": "large",
    "lepe.1": "large.norm",
    "se_layer.proj.1": "se.fc1",
    "se_layer.proj.3": "se.fc2",
    "gate.0": "gate.conv",
    "gate.1": "gate.norm",
    "proj.0": "proj.norm",
    "proj.1": "proj.conv",
    "dwconv2": "dwconv2.conv",
    "norm2": "norm2",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.dwconv.conv",
    "mlp.3": "mlp.norm",
    "mlp.4": "mlp.fc2",
    "ls1": "ls1",
    "ls2": "ls2",
}


def rename_block(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights of a block, named as here.

    Raises:
        CheckpointError: a key that no block has.
    """
    names = DYNAMIC_BLOCK if "rpb1" in state_dict else PLAIN_BLOCK
    large = next(name for name, place in names.items() if place == "large")
    whole = "large" if f"{large}.lk_origin.bias" in state_dict else "large.large"
    rules = [
        (rf"{large}\.lk_origin\.(.*)", rf"{whole}.conv.\1"),
        (rf"{large}\.origin_bn\.(.*)", r"large.large.norm.\1"),
        (rf"{large}\.dil_conv_k(\d+_\d+)\.(.*)", r"large.small.\1.conv.\2"),
        (rf"{large}\.dil_bn_k(\d+_\d+)\.(.*)", r"large.small.\1.norm.\2"),
        *[
            (name.replace(".", r"\.") + r"((?:\.[a-z_]+)?)", rf"{place}\1")
            for name, place in names.items()
            if place != "large"
        ],
    ]
    renamed = rename_keys(state_dict, rules)
    for key, value in renamed.items():
        if re.search(r"(norm\.(gamma|beta)|(ls\d?|_scale)\.weight)$", key):  # (1, C, 1, 1) or (C, 1, 1, 1)
            renamed[key] = value.flatten()
        elif key == "mixing.proj.weight":
            renamed[key] = value.flatten(1)
    return renamed


def merge_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose large kernels are merged, as :func:`~dense.layers.switch_to_deploy` leaves a network."""
    merged = dict(state_dict)
    for key in state_dict:
        if not key.endswith(".conv.weight"):
            continue
        name = key.removesuffix(".conv.weight")
        weight, bias = merged.pop(key), merged.pop(f"{name}.conv.bias", None)
        start = f"{name}.norm."
        norm = {k.removeprefix(start): merged.pop(k) for k in state_dict if k.startswith(start)}
        if norm:
            fold = fold_norm_before if f".{name}".endswith(".proj") else fold_norm
            weight, bias = fold(weight, bias, SimpleNamespace(eps=1e-5, **norm))
        else:
            weight = weight + identity_kernel(weight)
        merged[f"{name}.weight"], merged[f"{name}.bias"] = weight, bias
    return merged
