"""SHViT: single-head attention on a part of the channels, after a stem of stride 16.

Yun, Ro, "SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design", CVPR 2024,
arXiv 2401.16456. Published code: ysj9909/SHViT, MIT.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys

from ..layers import ConvNorm, DropPath, init_normal
from .base import Backbone, register_backbone


class DepthwiseMixer(ConvNorm):
    """x + norm(depthwise 3x3 convolution of x): (B, C, H, W) to the same."""

    def __init__(self, embed_dims: int, drop_path: float = 0.0, norm_weight_init: float = 1.0):
        super().__init__(embed_dims, embed_dims, 3, 1, 1, embed_dims, norm_weight_init=norm_weight_init)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(super().forward(x))


class FeedForward(nn.Module):
    """x + a perceptron of each position, twice as wide inside: (B, C, H, W) to the same."""

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
        # the kernels that hold no (HW, HW) want one width; channels of zeros add nothing to q k^T
        width = max(self.qkv_split)
        padded = (F.pad(t, (0, width - t.shape[-1])) for t in (q, k, v))
        y = F.scaled_dot_product_attention(*padded, scale=q.shape[-1] ** -0.5)[..., : v.shape[-1]]
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


class SqueezeExcitation(nn.Module):
    """Gate of each channel from the means of all: (B, C, H, W) to the same."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


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


class NormLinear(nn.Module):
    """Batch norm, Linear: (B, C) to (B, num_classes)."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(in_channels)
        self.fc = nn.Linear(in_channels, num_classes)
        init_normal(self.fc, nn.Linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(x))


class Head(nn.Module):
    """Mean over positions, batch norm, Linear: (B, C, H, W) to (B, num_classes).

    With ``distillation`` there are two such classifiers: in training both are returned, to learn from labels
    and from a teacher; evaluation takes their mean.
    """

    def __init__(self, in_channels: int, num_classes: int, distillation: bool = False):
        super().__init__()
        self.cls = NormLinear(in_channels, num_classes)
        self.dist = NormLinear(in_channels, num_classes) if distillation else None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = x.mean((2, 3))
        if self.dist is None:
            return self.cls(x)
        logits = self.cls(x), self.dist(x)
        return logits if self.training else sum(logits) / 2


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

    archs = {
        "s1": _published((128, 224, 320), (2, 4, 5), (None, 48, 68)),
        "s2": _published((128, 308, 448), (2, 4, 5), (None, 66, 96)),
        "s3": _published((192, 352, 448), (3, 5, 5), (None, 75, 96)),
        "s4": _published((224, 336, 448), (4, 7, 6), (None, 72, 96)),
    }
    num_stages = 3

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "s1",
        *,
        drop_path_rate: float = 0.0,
        distillation: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        spec = self.find_arch(arch)
        self.distillation = distillation
        dims, depths = spec["embed_dims"], spec["depths"]
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        for i, (dim, depth, channels) in enumerate(
            zip(dims, depths, spec["attention_channels"], strict=True)
        ):
            self.downsamples.append(_downsampling(dims[i - 1], dim) if i else _stem(self.in_channels, dim))
            self.stages.append(nn.Sequential(*[Block(dim, channels, next(rates)) for _ in range(depth)]))
        self.set_outputs(dims, (16, 32, 64))

    def make_head(self, num_classes: int) -> nn.Module:
        return Head(self.out_channels[-1], num_classes, self.distillation)

    @staticmethod
    def rename_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        renamed = rename_keys(
            {_rename(key): value for key, value in state_dict.items()},
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
    # weights that are channels last in memory make maps that are
    return nn.Sequential(*layers[:-1]).to(memory_format=torch.channels_last)


def _downsampling(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(DepthwiseMixer(in_channels), FeedForward(in_channels)),
        PatchMerging(in_channels, out_channels),
        nn.Sequential(DepthwiseMixer(out_channels), FeedForward(out_channels)),
    )
