"""RAVLT: rank-augmented linear attention on large maps, softmax attention on small ones, rotary positions.

Fan, Huang, He, "Breaking the Low-Rank Dilemma of Linear Attention", CVPR 2025, arXiv 2411.07635.
Published code: qhfan/RALA (its checkpoints are MIT, the code names no licence).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    ClassificationHead,
    ConditionalPosition,
    ConvNorm,
    DropPath,
    LayerNorm,
    LayerNorm2d,
    Linear,
    add_scaled,
    drop_path_rates,
    init_normal,
    make_classifier,
    make_scale,
    on_channels_last,
)
from ..ops import linear_attention


def rotary_table(height: int, width: int, dims: int, like: Tensor) -> Tensor:
    """The rotations of all positions of a map, as complex numbers of length 1.

    There are m = dims / 4 frequencies, from 1 down to 1 / 10000. Times the row of a position they are the
    angles of the first m pairs of channels, times its column those of the other m.

    Args:
        height, width: of the map.
        dims: channels of a head, a multiple of 4.
        like: gives the device, and the precision if above float32.

    Returns:
        (H * W, dims / 2) complex, positions row by row.
    """
    options = {"dtype": torch.promote_types(like.dtype, torch.float32), "device": like.device}
    frequencies = 10000 ** -torch.linspace(0, 1, dims // 4, **options)
    angles = (torch.arange(size, **options)[:, None] * frequencies for size in (height, width))
    rows, columns = (torch.polar(torch.ones_like(angle), angle) for angle in angles)
    rows, columns = rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)
    return torch.cat((rows, columns), -1).flatten(0, 1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate pairs of neighbouring channels, (B, heads, N, d), by :func:`rotary_table`."""
    pairs = x.to(table.real.dtype).unflatten(-1, (-1, 2))
    return torch.view_as_real(torch.view_as_complex(pairs) * table).flatten(-2).to(x.dtype)


class GatedAttention(nn.Module):
    """What both attentions share: (B, H, W, C) to the same.

    A depthwise convolution of the values joins what :meth:`attend` returns; a gate, linear in x, multiplies
    the sum.

    Args:
        embed_dims: C.
        num_heads: C / num_heads must be a multiple of 4, for the rotations.
    """

    def __init__(self, embed_dims: int, num_heads: int):
        super().__init__()
        if embed_dims % (4 * num_heads):
            raise ValueError(
                f"embed_dims must be a multiple of 4 * num_heads, found {embed_dims} with {num_heads} heads"
            )
        self.num_heads = num_heads
        self.qkvo = Linear(embed_dims, 4 * embed_dims)
        self.lepe = nn.Conv2d(embed_dims, embed_dims, 5, padding=2, groups=embed_dims)
        self.proj = Linear(embed_dims, embed_dims)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        """(B, heads, N, d) each, and the table of their positions, to (B, heads, N, d)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        height, width, channels = x.shape[1:]
        qkvo = self.qkvo(x)
        q, k, v, _ = qkvo.flatten(1, 2).unflatten(-1, (4, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y = self.attend(q, k, v, rotary_table(height, width, q.shape[-1], q))
        value, gate = qkvo[..., 2 * channels :].chunk(2, -1)
        local = on_channels_last(self.lepe, value)
        return self.proj((local + y.transpose(1, 2).reshape(x.shape)) * gate)


class SoftmaxAttention(GatedAttention):
    """Gated attention with softmax over all positions."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(rotate(q, table), rotate(k, table), v)


class RankAugmentedAttention(GatedAttention):
    r"""Gated linear attention, whose keys are weighed first: time and memory linear in the positions.

    With :math:`q, k` after ELU + 1, the mean query :math:`g` and rotations :math:`R_i`:

    .. math:: p = \mathrm{softmax}_j (g \cdot k_j / \sqrt{d}), \qquad
              y_i = \frac{(R_i q_i)^\top \sum_j p_j \, R_j k_j \, v_j^\top}
                         {q_i \cdot \sum_j p_j k_j + 10^{-6}}.

    Only the numerator is rotated, so the weights sum to one but for the rotation. The sums run in float32.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        turn = partial(rotate, table=table)
        return linear_attention(q, k, v, feature="elu", augment_rank=True, rotate=turn, eps=1e-6)


ATTENTIONS = {"linear": RankAugmentedAttention, "softmax": SoftmaxAttention}


class FeedForward(nn.Module):
    """Linear, GELU, x + depthwise 3x3 of x, Linear: (B, H, W, C) to the same."""

    def __init__(self, embed_dims: int, hidden_dims: int):
        super().__init__()
        self.fc1 = Linear(embed_dims, hidden_dims)
        self.dwconv = ConditionalPosition(hidden_dims)
        self.fc2 = Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dwconv(self.fc1(x, activation="gelu")))


class Block(nn.Module):
    """Position, attention, feed-forward: (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        attn: maps (B, H, W, C) to the same.
        drop_path_rate: of both branches.
        layer_scale_init: initial factor of both branches, one for each channel.
    """

    def __init__(self, embed_dims: int, attn: nn.Module, drop_path_rate: float, layer_scale_init: float):
        super().__init__()
        self.pos = ConditionalPosition(embed_dims)
        self.norm1 = LayerNorm(embed_dims)
        self.attn = attn
        self.norm2 = LayerNorm(embed_dims)
        self.ffn = FeedForward(embed_dims, int(3.5 * embed_dims))
        self.gamma1 = make_scale(embed_dims, layer_scale_init)
        self.gamma2 = make_scale(embed_dims, layer_scale_init)
        self.drop_path1 = DropPath(drop_path_rate)
        self.drop_path2 = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pos(x)
        x = add_scaled(x, self.drop_path1(self.attn(self.norm1(x))), self.gamma1)
        return add_scaled(x, self.drop_path2(self.ffn(self.norm2(x))), self.gamma2)


class Stem(nn.Sequential):
    """Four convolutions 3x3, two of stride 2: (B, in_channels, H, W) to (B, C, H / 4, W / 4), rounded up."""

    def __init__(self, in_channels: int, embed_dims: int):
        half = embed_dims // 2
        super().__init__(
            ConvNorm(in_channels, half, 3, 2, 1, bias=True),
            nn.GELU(),
            ConvNorm(half, half, 3, 1, 1, bias=True),
            nn.GELU(),
            ConvNorm(half, half, 3, 1, 1, bias=True),
            nn.GELU(),
            ConvNorm(half, embed_dims, 3, 2, 1, bias=True),
        )


class ProjectedHead(ClassificationHead):
    """Wider map, mean over positions, Linear: (B, C, H, W) to (B, num_classes).

    Args:
        in_channels: C.
        num_classes: number of logits.
        hidden_dims: channels of the wider map.
    """

    def __init__(self, in_channels: int, num_classes: int, hidden_dims: int = 1024):
        super().__init__(hidden_dims, None)
        self.proj = ConvNorm(in_channels, hidden_dims, 1, bias=True)
        self.fc = make_classifier(hidden_dims, num_classes, init=None)
        init_normal(self, nn.Conv2d, nn.Linear)

    def pre_logits(self, features: Tensor) -> Tensor:
        return F.silu(self.proj(features)).mean((2, 3))


@register_backbone("rala")
class RAVLT(Backbone):
    """The rank-augmented vision linear transformer.

    Args:
        arch: a published variant, or a dict as those in ``archs``.
        drop_path_rate: of the last block; it grows linearly from 0. By default that of the variant.
        attentions: of each stage, "linear" (rank-augmented) or "softmax".
        **kwargs: see :class:`Backbone`.
    """

    paper = 'Fan et al., "Breaking the Low-Rank Dilemma of Linear Attention", CVPR 2025, arXiv 2411.07635'
    code = "qhfan/RALA"
    licence = "none for the code; checkpoints MIT"
    archs = {
        "tiny": {
            "embed_dims": (64, 128, 256, 512),
            "depths": (2, 2, 6, 2),
            "num_heads": (1, 2, 4, 8),
            "drop_path_rate": 0.1,
            "layer_scale_init": (1, 1, 1, 1),
        },
        "small": {
            "embed_dims": (64, 128, 320, 512),
            "depths": (3, 5, 9, 3),
            "num_heads": (1, 2, 5, 8),
            "drop_path_rate": 0.15,
            "layer_scale_init": (1, 1, 1, 1),
        },
        "base": {
            "embed_dims": (96, 192, 384, 512),
            "depths": (4, 6, 12, 6),
            "num_heads": (1, 2, 6, 8),
            "drop_path_rate": 0.4,
            "layer_scale_init": (1, 1, 1e-6, 1e-6),
        },
        "large": {
            "embed_dims": (96, 192, 448, 640),
            "depths": (4, 7, 19, 8),
            "num_heads": (1, 2, 7, 10),
            "drop_path_rate": 0.55,
            "layer_scale_init": (1e-6, 1e-6, 1e-6, 1e-6),
        },
    }
    example_arch = {"embed_dims": (16, 32, 64, 128)}
    num_parameters = {
        "tiny": 14_897_768,
        "small": 25_591_208,
        "base": 48_241_288,
        "large": 95_242_440,
    }
    published = results(
        (
            "ImageNet-1K top-1, %",
            "COCO RetinaNet 1x AP",
            "COCO Mask R-CNN 1x box AP",
            "COCO Mask R-CNN 1x mask AP",
            "COCO Mask R-CNN 3x box AP",
            "COCO Mask R-CNN 3x mask AP",
            "COCO Cascade Mask R-CNN 3x box AP",
            "COCO Cascade Mask R-CNN 3x mask AP",
            "ADE20K S-FPN mIoU",
            "ADE20K UPerNet mIoU",
        ),
        {
            "tiny": (82.8, 45.9, 47.3, 42.7, None, None, None, None, 47.9, None),
            "small": (84.4, 48.3, 49.8, 44.6, 51.4, 45.5, 54.2, 46.8, 49.5, 50.7),
            "base": (85.5, 49.8, 51.2, 45.7, 52.7, 46.4, 55.3, 47.7, 51.9, 52.5),
            "large": (85.8, 50.9, 52.3, 46.4, 53.6, 47.3, 55.6, 48.0, 52.6, 53.2),
        },
    )
    channels_last = True

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float | None = None,
        attentions: Sequence[str] = ("linear", "linear", "softmax", "softmax"),
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims, depths = spec["embed_dims"], spec["depths"]
        if len(attentions) != len(depths) or not ATTENTIONS.keys() >= set(attentions):
            raise ValueError(
                f"attentions must be {len(depths)} of {sorted(ATTENTIONS)}, found {tuple(attentions)}"
            )
        last_rate = spec["drop_path_rate"] if drop_path_rate is None else drop_path_rate
        of_stages = drop_path_rates(last_rate, depths)
        self.downsamples.append(Stem(self.in_channels, dims[0]))
        self.downsamples.extend(ConvNorm(*pair, 3, 2, 1, bias=True) for pair in pairwise(dims))
        stages = zip(dims, spec["num_heads"], attentions, spec["layer_scale_init"], of_stages, strict=True)
        for channels, heads, kind, scale, rates in stages:
            attention = partial(ATTENTIONS[kind], channels, heads)
            self.stages.append(nn.ModuleList(Block(channels, attention(), rate, scale) for rate in rates))
        init_normal(self, nn.Conv2d, nn.Linear)
        self.set_outputs(dims, (4, 8, 16, 32), LayerNorm2d)

    def make_head(self, num_classes: int) -> ProjectedHead:
        return ProjectedHead(self.num_features, num_classes)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        stem = [
            (rf"patch_embed\.proj\.{3 * i + j}\.(.*)", rf"backbone.downsamples.0.{2 * i}.{name}.\1")
            for i in range(4)
            for j, name in enumerate(("conv", "norm"))
        ]
        downsamples = [
            (rf"layers\.{i}\.downsample\.{theirs}\.(.*)", rf"backbone.downsamples.{i + 1}.{ours}.\1")
            for i in range(3)
            for theirs, ours in (("reduction", "conv"), ("norm", "norm"))
        ]
        block = r"layers\.(\d)\.blocks\.(\d+)\."
        renamed = rename_keys(
            cls.find_trunk(state_dict),
            [
                *stem,
                *downsamples,
                (r"layers\.\d\.RoPE\.angle", None),  # constant
                (block + r"(norm\d)\.norm\.(.*)", r"backbone.stages.\1.\2.\3.\4"),
                (block + r"gamma_(\d)", r"backbone.stages.\1.\2.gamma\3"),
                (block + r"(pos|ffn\.dwconv)\.(.*)", r"backbone.stages.\1.\2.\3.proj.\4"),
                (block + r"(.*)", r"backbone.stages.\1.\2.\3"),
                # of the copies for detection and segmentation
                (r"(?:extra_)?norms?\.?(\d)\.(?:norm\.)?(\w+)", r"backbone.norms.\1.\2"),
                (r"proj\.(.*)", r"head.proj.conv.\1"),
                (r"norm\.(.*)", r"head.proj.norm.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )
        for key, value in renamed.items():
            if "gamma" in key:
                renamed[key] = value.flatten()
            elif value.shape[2:] == (1, 1) and not key.startswith("head.proj"):  # a Linear here
                renamed[key] = value.flatten(1)
        return renamed
