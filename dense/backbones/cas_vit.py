"""CAS-ViT: queries and keys that are gated by position and by channel, and added; no softmax, no heads.

Zhang, Li, Zhou, Fan, Xu, "CAS-ViT: Convolutional Additive Self-attention Vision Transformers for Efficient
Mobile Applications", arXiv 2408.03703. Published code: Tianfang-Zhang/CAS-ViT, MIT.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pointsuite.engine.checkpoint import CheckpointError, rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    ConvNorm,
    DropPath,
    NormConv,
    PooledLinear,
    drop_path_rates,
    make_classifier,
)
from ..layers.conv_norm import convolve
from ..ops import gated_sum, linear


class Conv(nn.Conv2d):
    """Conv2d that keeps the size, and goes on with an activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        return convolve(x, self.weight, self.bias, 1, self.padding, self.groups, activation)


class Gates(nn.Module):
    """Queries and keys, each with a gate of each position, then with one of each channel, and added:
    (B, 2 C, H, W), queries first, to (B, C, H, W).

    Both have parameters of their own, which lie one after the other. A position's gate comes from its
    surroundings; a channel's from the means of all channels.
    """

    def __init__(self, embed_dims: int):
        super().__init__()
        both = 2 * embed_dims
        self.conv = ConvNorm(both, both, 3, padding=1, groups=both, bias=True)
        self.spatial = nn.Conv2d(both, 2, 1, groups=2, bias=False)
        self.channel = nn.Conv2d(both, both, 1, groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        seen = self.conv(x, "relu").permute(0, 2, 3, 1)
        positions = linear(seen, torch.block_diag(*self.spatial.weight.flatten(1))).sigmoid()
        positions = positions.flatten(1, 2)  # (B, H * W, 2)
        x = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H * W, 2 C)
        # what either gate gives of either map; its own counts
        means = (positions.mT @ x).unflatten(2, (2, -1)).diagonal(dim1=1, dim2=2).permute(2, 0, 1) / x.shape[
            1
        ]
        weight = self.channel.weight[:, :, 0, 0].unflatten(0, (2, -1))
        channels = (means @ weight.mT).sigmoid().transpose(0, 1)  # (B, 2, C)
        x = x.unflatten(2, (2, -1))
        return gated_sum(x, positions, channels).unflatten(1, (height, width)).permute(0, 3, 1, 2)


class AdditiveMixer(nn.Module):
    """Convolutional additive self-attention, its input normed: (B, C, H, W) to the same.

    ``proj(dwc(q' + k') * v)`` with gated queries and keys, see :class:`Gates`, and depthwise convolutions.
    """

    def __init__(self, embed_dims: int):
        super().__init__()
        self.split = (2 * embed_dims, embed_dims)
        self.qkv = NormConv(embed_dims, 3 * embed_dims, bias=False)
        self.gates = Gates(embed_dims)
        self.dwc = Conv(embed_dims, embed_dims, 3, groups=embed_dims)
        self.proj = Conv(embed_dims, embed_dims, 3, groups=embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.qkv
        if isinstance(layer, NormConv) and not layer.merges:
            qk, v = layer(x).split(self.split, 1)
            return self.proj(self.dwc(self.gates(qk)) * v)
        # apart, queries and keys are a map without gaps, and values go straight into the product
        weight, bias = layer.merge() if isinstance(layer, NormConv) else (layer.weight, layer.bias)
        (of_qk, of_v), (qk_bias, v_bias) = weight.split(self.split), bias.split(self.split)
        context = self.dwc(self.gates(convolve(x, of_qk, qk_bias)))
        x, context = x.permute(0, 2, 3, 1), context.permute(0, 2, 3, 1)
        return self.proj(linear(x, of_v.flatten(1), v_bias, times=context).permute(0, 3, 1, 2))


class LocalPerception(nn.Module):
    """Two 1x1 convolutions around a depthwise one: (B, C, H, W) to the same."""

    def __init__(self, embed_dims: int):
        super().__init__()
        self.conv1 = ConvNorm(embed_dims, embed_dims, 1, bias=True)
        self.dw = Conv(embed_dims, embed_dims, 3, groups=embed_dims)
        self.conv2 = Conv(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.dw(self.conv1(x), "gelu"))


class ConvMLP(nn.Module):
    """Norm, MLP of each position, four times as wide inside: (B, C, H, W) to the same."""

    def __init__(self, embed_dims: int):
        super().__init__()
        self.fc1 = NormConv(embed_dims, 4 * embed_dims)
        self.fc2 = Conv(4 * embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x, "gelu"))


class Block(nn.Module):
    """Local perception, additive attention, MLP, all residual: (B, C, H, W) to the same."""

    def __init__(self, embed_dims: int, drop_path: float):
        super().__init__()
        self.local = LocalPerception(embed_dims)
        self.attn = AdditiveMixer(embed_dims)
        self.mlp = ConvMLP(embed_dims)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.local(x)
        x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.mlp(x))


class Head(PooledLinear):
    """Batch norm, mean over positions, Linear: (B, C, H, W) to (B, num_classes).

    With ``distillation`` there are two Linears: in training both logits are returned, to learn from labels
    and from a teacher; evaluation takes their mean.
    """

    def __init__(self, in_channels: int, num_classes: int, distillation: bool = False):
        super().__init__(in_channels, num_classes, nn.BatchNorm2d(in_channels), norm_first=True)
        self.dist = None
        if distillation:
            self.dist = nn.Module()
            self.dist.fc = make_classifier(in_channels, num_classes, self.init)

    def classify(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.dist is None:
            return self.fc(x)
        logits = self.fc(x), self.dist.fc(x)
        return logits if self.training else sum(logits) / 2


def _published(embed_dims: tuple[int, ...], depths: tuple[int, ...]) -> dict[str, Any]:
    return {"embed_dims": embed_dims, "depths": depths}


@register_backbone("cas_vit")
class CASViT(Backbone):
    """CAS-ViT's trunk of four stages; strides 4 to 32. Images of any size; odd maps are rounded up.

    A channel's gate comes from the whole map, so features depend on all of the image. Published detectors
    and segmentors train it with ``norm_eval=True``, and norm each map; without the finest one it is
    ``out_indices=(1, 2, 3)``.

    Args:
        arch: one of :attr:`archs`, or a mapping with its keys.
        drop_path_rate: of the last block; those before it rise to it linearly from 0. Published: 0.1.
        distillation: give the classifier the second head, of a teacher. The published builder makes it, the
            published training leaves it out.
        **kwargs: of :class:`Backbone`.
    """

    title = "CAS-ViT"
    paper = (
        'Zhang, Li, Zhou, Fan, Xu, "CAS-ViT: Convolutional Additive Self-attention Vision Transformers for '
        'Efficient Mobile Applications", arXiv 2408.03703'
    )
    code = "Tianfang-Zhang/CAS-ViT"
    licence = "MIT"
    archs = {
        "xs": _published((48, 56, 112, 220), (2, 2, 4, 2)),
        "s": _published((48, 64, 128, 256), (3, 3, 6, 3)),
        "m": _published((64, 96, 192, 384), (3, 3, 6, 3)),
        "t": _published((96, 128, 256, 512), (3, 3, 6, 3)),
    }
    num_parameters = {"xs": 2_979_700, "s": 5_507_224, "m": 12_036_520, "t": 21_250_120}
    published = results(
        (
            "ImageNet-1K top-1, %",
            "ImageNet-1K top-1, %, 384 x 384",
            "COCO RetinaNet 1x AP",
            "COCO Mask R-CNN 1x box AP",
            "COCO Mask R-CNN 1x mask AP",
            "ADE20K Semantic FPN mIoU, %",
        ),
        {
            "xs": (78.3, 78.7, 36.5, 37.4, 34.9, 37.1),
            "s": (80.9, 81.1, 38.6, 39.8, 36.7, 41.3),
            "m": (82.8, 83.0, 40.9, 42.3, 38.9, 43.6),
            "t": (83.9, 84.1, 41.9, 43.5, 39.6, 45.0),
        },
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "xs",
        *,
        drop_path_rate: float = 0.0,
        distillation: bool = False,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        self.distillation = distillation
        dims, depths = self.spec["embed_dims"], self.spec["depths"]
        for i, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            self.downsamples.append(
                ConvNorm(dims[i - 1], dims[i], 3, 2, 1, bias=True) if i else _stem(self.in_channels, dims[0])
            )
            self.stages.append(nn.Sequential(*[Block(dims[i], rate) for rate in rates]))
        self.set_outputs(dims, (4, 8, 16, 32), nn.BatchNorm2d)

    def make_head(self, num_classes: int) -> Head:
        return Head(self.num_features, num_classes, self.distillation)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return cls.drop_defaults(distillation="head.dist.fc.weight" in state_dict)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        renamed = rename_keys(
            {_rename(key): value for key, value in cls.find_trunk(state_dict).items()},
            [
                (r"((?:downsamples|stages|norms)\..*)", r"backbone.\1"),
                (r"norm\.(.*)", r"head.norm.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
                (r"dist_head\.(.*)", r"head.dist.fc.\1"),
            ],
        )
        return _join_gates(renamed)


def _rename(key: str) -> str:
    if match := re.match(r"network\.(\d+)\.", key):  # stages and downsamplings take turns
        stage, between = divmod(int(match[1]), 2)
        start = f"downsamples.{stage + 1}." if between else f"stages.{stage}."
        key = start + key[match.end() :].replace("proj.", "conv.", 1 if between else 0)
    elif match := re.match(r"norm([0246])\.", key):
        key = f"norms.{int(match[1]) // 2}.{key[match.end() :]}"
    elif match := re.match(r"patch_embed\.(\d)\.", key):  # convolution, norm, activation, and again
        layer, part = divmod(int(match[1]), 3)
        key = f"downsamples.0.{2 * layer}.{('conv', 'norm')[part]}.{key[match.end() :]}"
    names = {
        ".local_perception.network.0.": ".local.conv1.conv.",
        ".local_perception.network.1.": ".local.conv1.norm.",
        ".local_perception.network.2.": ".local.dw.",
        ".local_perception.network.4.": ".local.conv2.",
        ".norm1.": ".attn.qkv.norm.",
        ".attn.qkv.weight": ".attn.qkv.conv.weight",
        ".norm2.": ".mlp.fc1.norm.",
        ".mlp.fc1.weight": ".mlp.fc1.conv.weight",
        ".mlp.fc1.bias": ".mlp.fc1.conv.bias",
        ".0.block.0.": ".conv.conv.",
        ".0.block.1.": ".conv.norm.",
        ".0.block.3.": ".spatial.",
        ".1.block.1.": ".channel.",
    }
    for old, new in names.items():
        key = key.replace(old, new)
    return key


def _join_gates(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the gates of queries and of keys, put one after the other."""
    joined = {}
    for key, value in state_dict.items():
        if ".oper_q." in key:
            other = state_dict.get(key.replace(".oper_q.", ".oper_k."))
            if other is None:
                raise CheckpointError(f"{key!r} without one of oper_k")
            value = value if value.ndim == 0 else torch.cat((value, other))  # counters are one
            joined[key.replace(".oper_q.", ".gates.")] = value
        elif ".oper_k." not in key:
            joined[key] = value
    return joined


def _stem(in_channels: int, embed_dims: int) -> nn.Sequential:
    half = embed_dims // 2
    return nn.Sequential(
        ConvNorm(in_channels, half, 3, 2, 1, bias=True),
        nn.ReLU(inplace=True),
        ConvNorm(half, embed_dims, 3, 2, 1, bias=True),
        nn.ReLU(inplace=True),
    )
