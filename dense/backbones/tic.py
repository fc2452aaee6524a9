"""TiC: self-attention inside a convolution (MSA-Conv), and a pyramid of it.

"TiC: Exploring Vision Transformer in Convolution", 2023, arXiv 2310.04134. Published code:
zs670980918/MSA-Conv, without a licence: the operator and one module. The network was not published: what the
paper leaves open is our choice, said where it is made.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base import Backbone, register_backbone
from ..layers import (
    MLP,
    ConvLayerNorm,
    LayerNorm,
    LayerNorm2d,
    Linear,
    PatchMerging,
    PooledLinear,
    drop_path_rates,
    init_normal,
)
from ..ops import local_logits, local_mask, local_sum
from ..ops.windows import Size, pair
from .vit import Block

EPS = 1e-5  # of all norms
DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1))  # of the shifts of blocks, in turn


class LocalAttention(nn.Module):
    r"""Softmax attention of each pixel to the window around it.

    With the offsets t of a window, and zeros around the map,

    .. math:: y_n = \sum_t \mathrm{softmax}_t (d^{-1/2} \, q_n \cdot k_{n + t}) \, v_{n + t}.

    So keys outside of the map take part, with the logit 0, and make what is near the border smaller. It runs
    in float32. Shapes: queries, keys and values (B, H, W, C) to (B, H, W, C).

    Args:
        num_heads: divides C. One as published; more heads, up to one for each channel, are ours.
        window_size: odd, one number or (rows, columns).
        dilation: pixels from a place of the window to the next.
        mask_padding: keep what is outside of the map out.
        attn_drop: probability that a weight is dropped in training.
    """

    def __init__(
        self,
        num_heads: int = 1,
        window_size: Size = 7,
        dilation: int = 1,
        mask_padding: bool = False,
        attn_drop: float = 0.0,
    ):
        super().__init__()
        self.num_heads, self.window_size, self.dilation = num_heads, pair(window_size), dilation
        if not all(side % 2 for side in self.window_size):
            raise ValueError(f"kernel_size must be odd, found {window_size}")
        self.mask_padding = mask_padding
        self.attn_drop = nn.Dropout(attn_drop)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, pooled: bool = False) -> Tensor:
        """``pooled`` adds the window of as many 2x2 cells, averages of keys and values, to the softmax."""
        dtype = v.dtype
        with torch.autocast(v.device.type, enabled=False):
            exact = torch.promote_types(dtype, torch.float32)
            q, k, v = (self._split(x.to(exact)) for x in (q, k, v))
            q = q * q.shape[-1] ** -0.5
            logits = [self._logits(q, k, self.dilation)]
            if pooled:
                logits.append(self._logits(*(_even(x) for x in (q, k)), 2, cells=True))
                height, width = q.shape[2:4]
                logits[1] = logits[1][:, :, :height, :width]
            weights = self.attn_drop(torch.cat(logits, -1).softmax(-1))
            near, *far = weights.split(logits[0].shape[-1], -1)
            y = local_sum(near.contiguous(), v, self.window_size, dilation=self.dilation)
            if far:
                cells = _upsampled(_even(v))
                sums = local_sum(_even(far[0]).contiguous(), cells, self.window_size, dilation=2)
                y = y + sums[:, :, :height, :width]
        return y.permute(0, 2, 3, 1, 4).flatten(3).to(dtype)

    def _split(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, heads, H, W, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).permute(0, 3, 1, 2, 4)

    def _logits(self, q: Tensor, k: Tensor, dilation: int, cells: bool = False) -> Tensor:
        # a step of two pixels on the map of cells, enlarged again, is one of a cell
        k = _upsampled(k) if cells else k
        logits = local_logits(q, k, self.window_size, dilation=dilation)
        if self.mask_padding:
            inside = local_mask(*q.shape[2:4], self.window_size, q.device, dilation=dilation)
            logits = logits.masked_fill(~inside, -torch.inf)
        return logits


def _even(x: Tensor) -> Tensor:
    """(B, heads, H, W, d) with even sides: the last row and column are repeated."""
    below, right = x.shape[2] % 2, x.shape[3] % 2
    x = torch.cat((x, x[:, :, -1:]), 2) if below else x
    return torch.cat((x, x[:, :, :, -1:]), 3) if right else x


def _upsampled(x: Tensor) -> Tensor:
    """(B, heads, H, W, d) of even sides: means of cells of 2x2 pixels, in each pixel of the cell."""
    cells = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5), keepdim=True)
    return cells.expand(-1, -1, -1, 2, -1, 2, -1).flatten(4, 5).flatten(2, 3)


class MSAConv(nn.Module):
    """Local attention with its input added, a convolution, ReLU: (B, C, H, W) to (B, D, H', W').

    As published, the convolution alone has the stride and the padding, attention alone the dilation: the
    size is kept by ``padding`` of half a kernel.

    Args:
        in_channels, out_channels: C and D.
        kernel_size: of attention and convolution, odd, one number or (rows, columns).
        stride, padding: of the convolution.
        dilation, num_heads, mask_padding: see :class:`LocalAttention`.
        bias: of the convolution.
        attn_drop: see there.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        bias: bool = False,
        *,
        num_heads: int = 1,
        mask_padding: bool = False,
        attn_drop: float = 0.1,
    ):
        super().__init__()
        if num_heads < 1 or in_channels % num_heads:
            raise ValueError(f"num_heads must divide in_channels {in_channels}, found {num_heads}")
        self.qkv = Linear(in_channels, 3 * in_channels)
        self.attn = LocalAttention(num_heads, kernel_size, dilation, mask_padding, attn_drop)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.permute(0, 2, 3, 1)).chunk(3, -1)
        return F.relu(self.conv(x + self.attn(q, k, v).permute(0, 3, 1, 2)))


class ShiftedAttention(nn.Module):
    """Local attention on a map that is rolled, and rolled back: (B, H, W, C) to the same.

    Windows at a border so see the opposite one. The layers around the attention, and which way which block
    rolls, are ours.

    Args:
        embed_dims: C.
        num_heads, window_size, mask_padding: see :class:`LocalAttention`.
        direction: of the roll, by half a window: signs of rows and columns.
        pooled: have the cells of 2x2 pixels in the softmax, too (inter-pooling).
        qkv_bias: bias of queries, keys and values.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        direction: tuple[int, int],
        pooled: bool,
        *,
        mask_padding: bool = False,
        qkv_bias: bool = True,
    ):
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f"num_heads must divide embed_dims {embed_dims}, found {num_heads}")
        self.shift = tuple(sign * (window_size // 2) for sign in direction)
        self.pooled = pooled
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.attn = LocalAttention(num_heads, window_size, mask_padding=mask_padding)
        self.proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.roll(self.shift, (1, 2))).chunk(3, -1)
        y = self.attn(q, k, v, self.pooled)
        return self.proj(y.roll([-shift for shift in self.shift], (1, 2)))


@register_backbone("tic")
class TiC(Backbone):
    """A pyramid of local attention on rolled maps, every second block with pooled keys besides.

    The paper names what gives it capacity, shifts in several directions and pooled tokens; the network, its
    sizes and its training are ours. Images of any size; odd maps are rounded up.

    Args:
        arch: our variant, or a dict as those in ``archs``.
        drop_path_rate: of the last block; it grows linearly from 0.
        qkv_bias: bias of queries, keys and values.
        mask_padding: see :class:`LocalAttention`.
        **kwargs: see :class:`Backbone`.
    """

    paper = '"TiC: Exploring Vision Transformer in Convolution", 2023, arXiv 2310.04134'
    code = "zs670980918/MSA-Conv"
    licence = "none"
    archs = {
        "tiny": {
            "embed_dims": (64, 128, 256, 512),
            "depths": (2, 2, 6, 2),
            "num_heads": (2, 4, 8, 16),
            "window_size": 7,
        }
    }
    example_arch = {"embed_dims": (16, 32, 64, 128)}
    num_parameters = {"tiny": 12_747_048}
    channels_last = True

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.1,
        qkv_bias: bool = True,
        mask_padding: bool = False,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims = spec["embed_dims"]
        self.downsamples.append(ConvLayerNorm(self.in_channels, dims[0], 4, 4, norm_eps=EPS))
        self.downsamples.extend(PatchMerging(*pair, norm_eps=EPS) for pair in pairwise(dims))
        rates = drop_path_rates(drop_path_rate, spec["depths"])
        for channels, heads, of_blocks in zip(dims, spec["num_heads"], rates, strict=True):
            blocks = nn.ModuleList()
            for i, rate in enumerate(of_blocks):
                attn = ShiftedAttention(
                    channels,
                    heads,
                    spec["window_size"],
                    DIRECTIONS[i % len(DIRECTIONS)],
                    pooled=i % 2 == 1,
                    mask_padding=mask_padding,
                    qkv_bias=qkv_bias,
                )
                blocks.append(Block(channels, attn, MLP(channels, 4 * channels), rate, norm_eps=EPS))
            self.stages.append(blocks)
        init_normal(self, nn.Linear)
        self.set_outputs(dims, (4, 8, 16, 32), lambda channels: LayerNorm2d(channels, EPS))

    def make_head(self, num_classes: int) -> PooledLinear:
        return PooledLinear(self.num_features, num_classes, LayerNorm(self.num_features, EPS))
