"""DaViT: window attention between pixels and attention between channels, in turn.

Ding, Xiao, Codella, Luo, Wang, Yuan, "DaViT: Dual Attention Vision Transformers", ECCV 2022,
arXiv 2204.03645. Published code: dingmyu/davit, MIT.
"""

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys

from ..layers import MLP, ConditionalPosition, DropPath, LayerNorm2d, Linear, PooledLinear, init_normal
from ..ops import merge_windows, partition_windows, window_mask
from .base import Backbone, register_backbone


class WindowAttention(nn.Module):
    """Attention between the pixels of each window: (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        num_heads: divides C.
        window_size: side of the windows in pixels; zeros complete the last ones.
        qkv_bias: bias of queries, keys and values.
        mask_padding: keep the zeros out. Else they are keys and values, equal to the biases of these.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        qkv_bias: bool = True,
        mask_padding: bool = True,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.mask_padding = mask_padding
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        size = self.window_size
        windows = partition_windows(x, size)  # (B * n, w * w, C)
        qkv = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B * n, heads, w * w, d)
        mask = None
        if self.mask_padding and (height % size or width % size):
            mask = window_mask(height, width, size, x.device).repeat(batch, 1)[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, mask)
        y = self.proj(y.transpose(1, 2).flatten(2))
        return merge_windows(y, height, width)


class ChannelAttention(nn.Module):
    r"""Attention between the channels of each group: (B, H, W, C) to the same, in time linear in the pixels.

    With rows n for pixels and columns for the d channels of a group,

    .. math:: y = q \, \mathrm{softmax}(k^\top v / \sqrt{d})^\top.

    The names are those of the published weights: k does the work of a query, v that of a key, q that of a
    value. The products of k and v sum over all pixels, too much for half precision: they stay in float32.

    Args:
        embed_dims: C.
        num_groups: divides C.
        qkv_bias: bias of the three.
    """

    def __init__(self, embed_dims: int, num_groups: int, qkv_bias: bool = True):
        super().__init__()
        self.num_groups = num_groups
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x.flatten(1, 2)).unflatten(-1, (3, self.num_groups, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, groups, N, d)
        with torch.autocast(x.device.type, enabled=False):
            exact = torch.promote_types(k.dtype, torch.float32)
            logits = k.to(exact).transpose(-2, -1) @ v.to(exact)  # (B, groups, d, d)
            attention = (logits * q.shape[-1] ** -0.5).softmax(-1)
        y = q @ attention.transpose(-2, -1).to(q.dtype)
        return self.proj(y.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """Position, attention, position, perceptron: (B, C, H, W) to the same.

    Args:
        embed_dims: C.
        attn: maps (B, H, W, C) to the same.
        drop_path_rate: of both branches.
        ffn: end with the perceptron.
        cpe_act: GELU in the position encodings.
    """

    def __init__(
        self, embed_dims: int, attn: nn.Module, drop_path_rate: float, ffn: bool = True, cpe_act: bool = False
    ):
        super().__init__()
        self.cpe = nn.ModuleList(
            ConditionalPosition(embed_dims, act=nn.GELU() if cpe_act else None) for _ in range(2)
        )
        self.norm1 = nn.LayerNorm(embed_dims)
        self.attn = attn
        self.drop_path1 = DropPath(drop_path_rate)
        self.ffn = ffn
        if ffn:
            self.norm2 = nn.LayerNorm(embed_dims)
            self.mlp = MLP(embed_dims, 4 * embed_dims)
            self.drop_path2 = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cpe[0](x).permute(0, 2, 3, 1)
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        x = self.cpe[1](x.permute(0, 3, 1, 2))
        if self.ffn:
            x = x.permute(0, 2, 3, 1)
            x = x + self.drop_path2(self.mlp(self.norm2(x)))
            x = x.permute(0, 3, 1, 2)
        return x


class PatchEmbed(nn.Module):
    """Convolution 7x7 of stride 4, norm: (B, in_channels, H, W) to (B, C, H / 4, W / 4), rounded up."""

    def __init__(self, in_channels: int, embed_dims: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, 7, stride=4, padding=3)
        self.norm = LayerNorm2d(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return self.norm(self.proj(complete(x, 4)))


class PatchMerging(nn.Module):
    """Norm, convolution of stride 2: (B, in_channels, H, W) to (B, out_channels, H / 2, W / 2), rounded up.

    Args:
        in_channels, out_channels: of the maps.
        overlapped: patches of 3x3 pixels instead of 2x2.
    """

    def __init__(self, in_channels: int, out_channels: int, overlapped: bool):
        super().__init__()
        self.norm = LayerNorm2d(in_channels)
        kernel_size, padding = (3, 1) if overlapped else (2, 0)
        self.proj = nn.Conv2d(in_channels, out_channels, kernel_size, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(complete(self.norm(x), 2))


def complete(x: Tensor, stride: int) -> Tensor:
    """Zeros on the right and at the bottom of (B, C, H, W), up to multiples of the stride."""
    height, width = x.shape[2:]
    if height % stride or width % stride:
        x = F.pad(x, (0, -width % stride, 0, -height % stride))
    return x


@register_backbone("davit")
class DaViT(Backbone):
    """The dual attention vision transformer.

    Args:
        arch: a published variant, or a dict as those in ``archs``; depths count pairs of blocks. Huge and
            giant exist on paper only: their windows here are those of large, and their parameters (362 M,
            1.44 B) tell that patches overlap.
        drop_path_rate: of the last block; it grows linearly from 0.
        qkv_bias: bias of queries, keys and values.
        ffn: perceptrons in the blocks.
        cpe_act: GELU in the position encodings.
        overlapped_patch: merge patches of 3x3 pixels, which overlap, not 2x2. By default as in the variant.
        mask_padding: keep the zeros that complete the last windows out of the attention; by default so,
            unless ``reference_quirks``.
        reference_quirks: let these zeros be keys and values, as published. Where both sides of the image are
            multiples of 32 windows' sides (224 pixels, for windows of 7) there are none.
        **kwargs: see :class:`Backbone`.
    """

    archs = {
        "tiny": {
            "embed_dims": (96, 192, 384, 768),
            "depths": (1, 1, 3, 1),
            "num_heads": (3, 6, 12, 24),
            "window_size": 7,
            "overlapped_patch": False,
        },
        "small": {
            "embed_dims": (96, 192, 384, 768),
            "depths": (1, 1, 9, 1),
            "num_heads": (3, 6, 12, 24),
            "window_size": 7,
            "overlapped_patch": False,
        },
        "base": {
            "embed_dims": (128, 256, 512, 1024),
            "depths": (1, 1, 9, 1),
            "num_heads": (4, 8, 16, 32),
            "window_size": 7,
            "overlapped_patch": False,
        },
        "large": {
            "embed_dims": (192, 384, 768, 1536),
            "depths": (1, 1, 9, 1),
            "num_heads": (6, 12, 24, 48),
            "window_size": 12,
            "overlapped_patch": False,
        },
        "huge": {
            "embed_dims": (256, 512, 1024, 2048),
            "depths": (1, 1, 9, 1),
            "num_heads": (8, 16, 32, 64),
            "window_size": 12,
            "overlapped_patch": True,
        },
        "giant": {
            "embed_dims": (384, 768, 1536, 3072),
            "depths": (1, 1, 12, 3),
            "num_heads": (12, 24, 48, 96),
            "window_size": 12,
            "overlapped_patch": True,
        },
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.1,
        qkv_bias: bool = True,
        ffn: bool = True,
        cpe_act: bool = False,
        overlapped_patch: bool | None = None,
        mask_padding: bool | None = None,
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        spec = self.find_arch(arch)
        dims, depths = spec["embed_dims"], spec["depths"]
        if overlapped_patch is None:
            overlapped_patch = spec["overlapped_patch"]
        if mask_padding is None:
            mask_padding = not reference_quirks
        rates = iter(torch.linspace(0, drop_path_rate, 2 * sum(depths), device="cpu").tolist())
        self.downsamples.append(PatchEmbed(self.in_channels, dims[0]))
        self.downsamples.extend(PatchMerging(*pair, overlapped_patch) for pair in pairwise(dims))
        for channels, depth, heads in zip(dims, depths, spec["num_heads"], strict=True):
            windows = partial(WindowAttention, channels, heads, spec["window_size"], qkv_bias, mask_padding)
            groups = partial(ChannelAttention, channels, heads, qkv_bias)
            block = partial(Block, channels, ffn=ffn, cpe_act=cpe_act)
            self.stages.append(
                nn.ModuleList(
                    nn.Sequential(block(windows(), next(rates)), block(groups(), next(rates)))
                    for _ in range(depth)
                )
            )
        init_normal(self, nn.Linear)
        self.set_outputs(dims, (4, 8, 16, 32), LayerNorm2d)

    def make_head(self, num_classes: int) -> PooledLinear:
        channels = self.out_channels[-1]
        head = PooledLinear(channels, num_classes, nn.LayerNorm(channels))
        init_normal(head, nn.Linear)
        return head

    @staticmethod
    def rename_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return rename_keys(
            state_dict,
            [
                (r"patch_embeds\.(.*)", r"backbone.downsamples.\1"),
                (r"main_blocks\.(.*)", r"backbone.stages.\1"),
                (r"norm(\d\..*)", r"backbone.norms.\1"),  # of the copies for detection and segmentation
                (r"norms\.(.*)", r"head.norm.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )
