"""SHViT: single-head attention on a part of the channels, after a stem of stride 16.

Yun, Ro, "SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design", CVPR 2024,
arXiv 2401.16456. Published code: ysj9909/SHViT, MIT.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    ConvNorm,
    DropPath,
    PooledNormLinear,
    ReparameterizedConv,
    SqueezeExcitation,
    drop_path_rates,
    fold_norm,
    identity_kernel,
)
from ..ops import padded_attention


class DepthwiseMixer(ReparameterizedConv):
    """x + norm(depthwise 3x3 convolution of x), one convolution at evaluation: (B, C, H, W) to the same."""

    def __init__(self, embed_dims: int, drop_path: float = 0.0, norm_weight_init: float = 1.0):
        super().__init__(padding=1, groups=embed_dims)
        self.conv = nn.Conv2d(embed_dims, embed_dims, 3, 1, 1, groups=embed_dims, bias=False)
        self.norm = nn.BatchNorm2d(embed_dims)
        self.drop_path = DropPath(drop_path)
        nn.init.constant_(self.norm.weight, norm_weight_init)

    def forward_branches(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.norm(self.conv(x)))

    def merge(self) -> tuple[Tensor, Tensor]:
        weight, bias = fold_norm(self.conv.weight, None, self.norm)
        return weight + identity_kernel(weight), bias


class FeedForward(nn.Module):
    """x + an MLP of each position, twice as wide inside: (B, C, H, W) to the same."""

    def __init__(self, embed_dims: int, drop_path: float = 0.0):
        super().__init__()
        self.pw1 = ConvNorm(embed_dims, 2 * embed_dims, 1)
        self.pw2 = ConvNorm(2 * embed_dims, embed_dims, 1, norm_weight_init=0.0)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.pw2(self.pw1(x, "relu")))


class SingleHeadAttention(nn.Module):
    """Attention of one head among the first channels, the others pass by: (B, C, H, W) to the same.

    The attending channels are normed over all positions and channels of an image together.

    Args:
        embed_dims: C.
        channels: how many attend.
        qk_channels: width of queries and keys.
    """

    def __init__(self, embed_dims: int, channels: int, qk_channels: int = 16):
        super().__init__()
        self.split = (channels, embed_dims - channels)
        self.qkv_split = (qk_channels, qk_channels, channels)
        self.pre_norm = nn.GroupNorm(1, channels)
        self.qkv = ConvNorm(channels, 2 * qk_channels + channels, 1)
        self.proj = ConvNorm(embed_dims, embed_dims, 1, norm_weight_init=0.0)

    def forward(self, x: Tensor) -> Tensor:
        attending, passing = x.split(self.split, 1)
        qkv = self.qkv(self.pre_norm(attending)).permute(0, 2, 3, 1)  # (B, H, W, 2 qk + p)
        q, k, v = qkv.flatten(1, 2)[:, None].split(self.qkv_split, -1)  # (B, 1, H * W, ...)
        y = padded_attention(q, k, v)
        y = y.unflatten(2, qkv.shape[1:3])[:, 0].permute(0, 3, 1, 2)  # (B, p, H, W)
        return self.proj(torch.cat((y, passing), 1).relu())


class Block(nn.Module):
    """Depthwise convolution, attention unless ``attention_channels`` is None, feed-forward: (B, C, H, W)."""

    def __init__(self, embed_dims: int, attention_channels: int | None, drop_path: float):
        super().__init__()
        self.conv = DepthwiseMixer(embed_dims, drop_path, norm_weight_init=0.0)
        self.mixer = None
        if attention_channels is not None:
            self.mixer = SingleHeadAttention(embed_dims, attention_channels)
            self.drop_path = DropPath(drop_path)
        self.ffn = FeedForward(embed_dims, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.mixer is not None:
            x = x + self.drop_path(self.mixer(x))
        return self.ffn(x)


class PatchMerging(nn.Module):
    """Inverted bottleneck of stride 2, odd sizes rounded up: (B, a, H, W) to (B, b, H / 2, W / 2)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        hidden = 4 * in_channels
        self.conv1 = ConvNorm(in_channels, hidden, 1)
        self.conv2 = ConvNorm(hidden, hidden, 3, 2, 1, hidden)
        self.se = SqueezeExcitation(hidden, max(8, (in_channels + 4) // 8 * 8))  # the nearest multiple of 8
        self.conv3 = ConvNorm(hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x, "relu"), "relu")
        return self.conv3(self.se(x))


def _published(
    embed_dims: tuple[int, ...], depths: tuple[int, ...], attention_channels: tuple[int | None, ...]
) -> dict[str, Any]:
    return {"embed_dims": embed_dims, "depths": depths, "attention_channels": attention_channels}


@register_backbone("shvit")
class SHViT(Backbone):
    """SHViT's trunk of three stages; strides 16, 32, 64. Images of any size; odd ones are rounded up.

    Published detectors train it with ``frozen_stages=0, norm_eval=True``.

    Args:
        arch: one of :attr:`archs`, or a mapping with its keys; ``attention_channels`` None is a stage without
            attention.
        drop_path_rate: of the last block; those before it rise to it linearly from 0. Published: 0.
        distillation: give the classifier the second head, of a teacher.
        **kwargs: of :class:`Backbone`.
    """

    paper = (
        'Yun, Ro, "SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design", CVPR 2024, '
        "arXiv 2401.16456"
    )
    code = "ysj9909/SHViT"
    licence = "MIT"
    archs = {
        "s1": _published((128, 224, 320), (2, 4, 5), (None, 48, 68)),
        "s2": _published((128, 308, 448), (2, 4, 5), (None, 66, 96)),
        "s3": _published((192, 352, 448), (3, 5, 5), (None, 75, 96)),
        "s4": _published((224, 336, 448), (4, 7, 6), (None, 72, 96)),
    }
    num_parameters = {
        "s1": 6_330_808,
        "s2": 11_483_072,
        "s3": 14_245_273,
        "s4": 16_588_484,
    }
    published = results(
        (
            "ImageNet-1K top-1, %",
            "images/s on the paper's GPU",
            "COCO RetinaNet 1x AP",
            "COCO Mask R-CNN 1x box AP",
            "COCO Mask R-CNN 1x mask AP",
        ),
        {
            "s1": (72.8, 33489, None, None, None),
            "s2": (75.2, 26878, None, None, None),
            "s3": (77.4, 20522, None, None, None),
            "s4": (79.4, 14283, 38.8, 39.0, 35.9),
        },
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "s1",
        *,
        drop_path_rate: float = 0.0,
        distillation: bool = False,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        self.distillation = distillation
        dims, depths = spec["embed_dims"], spec["depths"]
        of_stages = drop_path_rates(drop_path_rate, depths)
        for i, (dim, channels, rates) in enumerate(
            zip(dims, spec["attention_channels"], of_stages, strict=True)
        ):
            self.downsamples.append(_downsampling(dims[i - 1], dim) if i else _stem(self.in_channels, dim))
            self.stages.append(nn.Sequential(*[Block(dim, channels, rate) for rate in rates]))
        self.set_outputs(dims, (16, 32, 64))

    def make_head(self, num_classes: int) -> PooledNormLinear:
        return PooledNormLinear(self.num_features, num_classes, self.distillation)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return cls.drop_defaults(distillation="head.dist.fc.weight" in state_dict)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        renamed = rename_keys(
            {_rename(key): value for key, value in cls.find_trunk(state_dict).items()},
            [
                (r"((?:downsamples|stages)\..*)", r"backbone.\1"),
                (r"head\.(.*)", r"head.cls.\1"),
                (r"head_dist\.(.*)", r"head.dist.\1"),
            ],
        )
        # some files have the kernels of 1x1 convolutions as matrices
        return {
            key: value[:, :, None, None] if value.ndim == 2 and key.startswith("backbone.") else value
            for key, value in renamed.items()
        }


def _rename(key: str) -> str:
    key = re.sub(r"^patch_embed\.", "downsamples.0.", key)
    key = re.sub(r"^blocks1\.", "stages.0.", key)
    if match := re.match(r"blocks(\d+)\.(\d+)\.", key):  # later stages begin with three parts of downsampling
        stage, index = int(match[1]) - 1, int(match[2])
        place = f"downsamples.{stage}.{index}." if index < 3 else f"stages.{stage}.{index - 3}."
        key = place + key[match.end() :]
    names = {".m.": ".", ".proj.1.": ".proj.", ".c.": ".conv.", ".bn.": ".norm.", ".l.": ".fc."}
    for old, new in names.items():
        key = key.replace(old, new)
    return key


def _stem(in_channels: int, embed_dims: int) -> nn.Sequential:
    widths = (in_channels, embed_dims // 8, embed_dims // 4, embed_dims // 2, embed_dims)
    layers = []
    for narrow, wide in zip(widths, widths[1:], strict=False):
        layers += [ConvNorm(narrow, wide, 3, 2, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def _downsampling(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(DepthwiseMixer(in_channels), FeedForward(in_channels)),
        PatchMerging(in_channels, out_channels),
        nn.Sequential(DepthwiseMixer(out_channels), FeedForward(out_channels)),
    )
