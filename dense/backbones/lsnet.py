"""LSNet: small kernels for each position, made from what a large kernel sees; attention on the last map.

Wang, Chen, Lin, Han, Ding, "LSNet: See Large, Focus Small", CVPR 2025, arXiv 2503.23135. Published code:
THU-MIG/lsnet, without a licence.
"""

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    ConvNorm,
    PooledNormLinear,
    ReparameterizedConv,
    SqueezeExcitation,
    fold_norm,
    identity_kernel,
    pad_kernel,
)
from ..layers.conv_norm import convolve
from ..ops import involution, padded_attention

DOWNSAMPLING = 2  # parts of it at the head of each published stage but the first


class RepVGGDW(ReparameterizedConv):
    """x + depthwise 3x3 and 1x1 convolutions of x, each with a norm: (B, C, H, W) to the same."""

    def __init__(self, embed_dims: int):
        super().__init__(padding=1, groups=embed_dims)
        self.conv = ConvNorm(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)
        self.conv1 = ConvNorm(embed_dims, embed_dims, 1, groups=embed_dims)

    def forward_branches(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.conv1(x) + x

    def merge(self) -> tuple[Tensor, Tensor]:
        weight, bias = fold_norm(self.conv.conv.weight, None, self.conv.norm)
        point, shift = fold_norm(self.conv1.conv.weight, None, self.conv1.norm)
        return weight + pad_kernel(point, 3) + identity_kernel(weight), bias + shift


class KernelNorm(nn.Module):
    """Norm of each kernel over its taps and all positions of an image: (B, H, W, taps, G) to the same.

    It is a group norm whose groups are the G kernels, with a factor and a shift of each tap of each.
    """

    def __init__(self, taps: int, groups: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(taps, groups))
        self.bias = nn.Parameter(torch.zeros(taps, groups))

    def forward(self, x: Tensor) -> Tensor:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = exact - exact.mean((1, 2, 3), keepdim=True)
        variance = centred.square().mean((1, 2, 3), keepdim=True)
        return torch.addcmul(self.bias, centred, self.weight * (variance + self.eps).rsqrt()).to(x.dtype)


class LargeKernelPerception(nn.Module):
    """Kernels for each position from a large window around it: (B, C, H, W) to (B, H, W, k, k, G).

    Args:
        embed_dims: C.
        large_kernel_size: side of that window.
        kernel_size: k, of the kernels.
        group_size: channels that share one: there are G = C / group_size.
    """

    def __init__(
        self, embed_dims: int, large_kernel_size: int = 7, kernel_size: int = 3, group_size: int = 8
    ):
        super().__init__()
        if embed_dims % group_size:
            raise ValueError(f"group_size must divide embed_dims {embed_dims}, found {group_size}")
        hidden, groups = embed_dims // 2, embed_dims // group_size
        self.shape = (kernel_size, kernel_size, groups)
        self.cv1 = ConvNorm(embed_dims, hidden, 1)
        self.cv2 = ConvNorm(hidden, hidden, large_kernel_size, padding=large_kernel_size // 2, groups=hidden)
        self.cv3 = ConvNorm(hidden, hidden, 1)
        self.cv4 = nn.Conv2d(hidden, kernel_size**2 * groups, 1)
        self.norm = KernelNorm(kernel_size**2, groups)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv3(self.cv2(self.cv1(x, "relu")), "relu")
        x = convolve(x, self.cv4.weight, self.cv4.bias).permute(0, 2, 3, 1)
        return self.norm(x.unflatten(3, self.norm.weight.shape)).unflatten(3, self.shape[:2])


class LSConv(nn.Module):
    """x + norm(x convolved with the kernels of each position): (B, C, H, W) to the same.

    Args:
        embed_dims, **kernels: of :class:`LargeKernelPerception`.
    """

    def __init__(self, embed_dims: int, **kernels: int):
        super().__init__()
        self.lkp = LargeKernelPerception(embed_dims, **kernels)
        self.out_norm = nn.BatchNorm2d(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.lkp(x)
        y = involution(x.permute(0, 2, 3, 1).to(kernels.dtype), kernels)
        return x + self.out_norm(y.permute(0, 3, 1, 2))


class Attention(nn.Module):
    """Self-attention with a bias by distance along each axis: (B, C, H, W) to the same.

    Queries go through a depthwise convolution. For maps of other sizes the table of biases is resized.

    Args:
        embed_dims: C.
        num_heads: number of heads.
        qk_channels: width of queries and keys of a head.
        v_channels: width of values of a head; by default C / num_heads.
        resolution: rows and columns of the map that the table is made for.
        reference_quirks: as published, resize the matrix of all pairs of positions as if it were a picture.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        qk_channels: int = 16,
        v_channels: int | None = None,
        resolution: int = 4,
        reference_quirks: bool = False,
    ):
        super().__init__()
        v_channels = embed_dims // num_heads if v_channels is None else v_channels
        self.num_heads = num_heads
        self.resolution = resolution
        self.reference_quirks = reference_quirks
        self.split = (num_heads * qk_channels, num_heads * qk_channels, num_heads * v_channels)
        self.qkv = ConvNorm(embed_dims, sum(self.split), 1)
        self.dw = ConvNorm(self.split[0], self.split[0], 3, padding=1, groups=self.split[0])
        self.proj = ConvNorm(self.split[2], embed_dims, 1, norm_weight_init=0.0)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, resolution**2))

    def bias(self, height: int, width: int) -> Tensor:
        """Of the logits of all pairs of positions of a map, rows of queries: (heads, H * W, H * W)."""
        side = self.resolution
        table = self.attention_biases.unflatten(1, (side, side))
        size = (height, width)
        if size == (side, side):
            return _by_distance(table)
        exact = table.to(torch.promote_types(table.dtype, torch.float32))
        if self.reference_quirks:
            pairs = (height * width, height * width)
            bias = F.interpolate(_by_distance(exact)[None], pairs, mode="bicubic")[0]
        else:
            bias = _by_distance(F.interpolate(exact[None], size, mode="bicubic")[0])
        return bias.to(table.dtype)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).split(self.split, 1)
        q, k, v = (
            t.permute(0, 2, 3, 1).flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for t in (self.dw(q), k, v)
        )  # (B, heads, H * W, ...)
        y = padded_attention(q, k, v, bias=self.bias(*x.shape[2:]).to(q.dtype)[None])
        y = y.transpose(1, 2).flatten(2).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return self.proj(y.relu())


def _by_distance(table: Tensor) -> Tensor:
    """(heads, H, W), at distances along the axes, to (heads, H * W, H * W) for all pairs of positions."""
    rows, columns = (
        (torch.arange(side, device=table.device)[:, None] - torch.arange(side, device=table.device)).abs()
        for side in table.shape[1:]
    )
    return table[:, rows[:, None, :, None], columns[None, :, None, :]].flatten(3).flatten(1, 2)


class FeedForward(nn.Module):
    """x + an MLP of each position, twice as wide inside: (B, C, H, W) to the same."""

    def __init__(self, embed_dims: int):
        super().__init__()
        self.pw1 = ConvNorm(embed_dims, 2 * embed_dims, 1)
        self.pw2 = ConvNorm(2 * embed_dims, embed_dims, 1, norm_weight_init=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pw2(self.pw1(x, "relu"))


class ConvBlock(nn.Module):
    """Depthwise convolution, squeeze and excitation, feed-forward: (B, C, H, W) to the same."""

    def __init__(self, embed_dims: int):
        super().__init__()
        self.mixer = RepVGGDW(embed_dims)
        self.se = SqueezeExcitation(embed_dims, max(8, (embed_dims // 4 + 4) // 8 * 8))
        self.ffn = FeedForward(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(self.se(self.mixer(x)))


class LSBlock(nn.Module):
    """:class:`LSConv`, feed-forward: (B, C, H, W) to the same."""

    def __init__(self, embed_dims: int):
        super().__init__()
        self.mixer = LSConv(embed_dims)
        self.ffn = FeedForward(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(self.mixer(x))


class AttentionBlock(nn.Module):
    """:class:`Attention`, feed-forward, both residual: (B, C, H, W) to the same."""

    def __init__(self, embed_dims: int, num_heads: int, **options: Any):
        super().__init__()
        self.mixer = Attention(embed_dims, num_heads, **options)
        self.ffn = FeedForward(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(x + self.mixer(x))


def _published(embed_dims: tuple[int, ...], depths: tuple[int, ...]) -> dict[str, Any]:
    return {"embed_dims": embed_dims, "depths": depths, "num_heads": 4}


@register_backbone("lsnet")
class LSNet(Backbone):
    """LSNet's trunk of four stages; strides 8 to 64. Images of any size; odd maps are rounded up.

    Blocks of fixed depthwise kernels take turns with such of dynamic ones, on the last map with attention.
    The dynamic kernels are normed over all positions of an image.

    Args:
        arch: one of :attr:`archs`, or a mapping with its keys; ``num_heads`` are those of the last stage.
        distillation: give the classifier the second head, of a teacher.
        resolution: rows and columns of the last map, for which the table of biases is made: 4 for images of
            224 pixels; published dense networks have 14. For other maps the table is resized.
        reference_quirks: as the published dense networks, resize biases of pairs of positions as a picture,
            which mixes pairs that have nothing in common.
        **kwargs: of :class:`Backbone`.
    """

    paper = 'Wang, Chen, Lin, Han, Ding, "LSNet: See Large, Focus Small", CVPR 2025, arXiv 2503.23135'
    code = "THU-MIG/lsnet"
    licence = "none"
    archs = {
        "t": _published((64, 128, 256, 384), (0, 2, 8, 10)),
        "s": _published((96, 192, 320, 448), (1, 2, 8, 10)),
        "b": _published((128, 256, 384, 512), (4, 6, 8, 10)),
    }
    num_parameters = {"t": 11_409_832, "s": 16_146_304, "b": 23_313_608}
    published = results(
        (
            "ImageNet-1K top-1, %",
            "ImageNet-1K top-1, %, distilled",
            "images/s on the paper's GPU",
            "COCO RetinaNet 1x AP",
            "COCO Mask R-CNN 1x box AP",
            "COCO Mask R-CNN 1x mask AP",
            "ADE20K Semantic FPN mIoU, %",
        ),
        {
            "t": (74.9, 76.1, 14708, 34.2, 35.0, 32.7, 40.1),
            "s": (77.8, 79.0, 9023, 36.5, 37.4, 34.8, 41.6),
            "b": (80.3, 81.6, 3996, 39.2, 40.8, 37.8, 43.1),
        },
    )
    no_weight_decay = ("attention_biases",)
    example_sizes = ((96, 96), (128, 96))

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "t",
        *,
        distillation: bool = False,
        resolution: int = 4,
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1, found {resolution}")
        self.distillation = distillation
        dims, depths, heads = (self.spec[name] for name in ("embed_dims", "depths", "num_heads"))
        attention = {"resolution": resolution, "reference_quirks": reference_quirks}
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            self.downsamples.append(_downsampling(dims[i - 1], dim) if i else _stem(self.in_channels, dim))
            blocks = [ConvBlock(dim) for _ in range(depth)]
            for j in range(1, depth, 2):
                last = i == len(dims) - 1
                blocks[j] = AttentionBlock(dim, heads, **attention) if last else LSBlock(dim)
            self.stages.append(nn.Sequential(*blocks))
        self.set_outputs(dims, (8, 16, 32, 64))

    def make_head(self, num_classes: int) -> PooledNormLinear:
        return PooledNormLinear(self.num_features, num_classes, self.distillation)

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        """One block of each kind."""
        return cls.create({**cls.archs["t"], "depths": (0, 2, 0, 2)}, **options)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        tables = (v for k, v in state_dict.items() if k.endswith(".attention_biases"))
        sides = {isqrt(table.shape[1]) for table in tables}
        return cls.drop_defaults(
            distillation="head.dist.fc.weight" in state_dict, resolution=max(sides, default=4)
        )

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        renamed = rename_keys(
            {rename(key): value for key, value in cls.find_trunk(state_dict).items()},
            [
                (r".*\.attention_bias_idxs", None),  # of the table, which follow from the map
                (r"((?:downsamples|stages)\..*)", r"backbone.\1"),
                (r"head\.(.*)", r"head.cls.\1"),
                (r"head_dist\.(.*)", r"head.dist.\1"),
            ],
        )
        return {key: order_taps(key, value) for key, value in renamed.items()}


def order_taps(key: str, value: Tensor, taps: int = 9) -> Tensor:
    """Weights of :class:`LargeKernelPerception`, published kernel by kernel, tap by tap; others unchanged."""
    match = re.search(r"\blkp\.(cv4|norm)\.", key)
    if match is None:
        return value
    ordered = value.unflatten(0, (-1, taps)).transpose(0, 1)  # (taps, G, ...)
    return ordered if match[1] == "norm" else ordered.flatten(0, 1)


def rename(key: str) -> str:
    """A published key without "backbone."; those of heads stay nearly as they are."""
    key = re.sub(r"^patch_embed\.", "downsamples.0.", key)
    if match := re.match(r"blocks(\d+)\.(\d+)\.", key):  # later stages begin with two parts of downsampling
        stage, index = int(match[1]) - 1, int(match[2])
        skipped = DOWNSAMPLING if stage else 0
        place = f"stages.{stage}.{index - skipped}." if index >= skipped else f"downsamples.{stage}.{index}."
        key = place + key[match.end() :]
    key = re.sub(r"\.mixer\.bn\.", ".mixer.out_norm.", key)
    names = {".m.": ".", ".proj.1.": ".proj.", ".c.": ".conv.", ".bn.": ".norm.", ".l.": ".fc."}
    for old, new in names.items():
        key = key.replace(old, new)
    return key


def _stem(in_channels: int, embed_dims: int) -> nn.Sequential:
    widths = (in_channels, embed_dims // 4, embed_dims // 2, embed_dims)
    layers = []
    for narrow, wide in zip(widths, widths[1:], strict=False):
        layers += [ConvNorm(narrow, wide, 3, 2, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def _downsampling(in_channels: int, out_channels: int) -> nn.Sequential:
    depthwise = ConvNorm(in_channels, in_channels, 3, 2, 1, in_channels)
    return nn.Sequential(depthwise, ConvNorm(in_channels, out_channels, 1))
