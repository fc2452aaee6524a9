"""HaloNet: residual networks whose 3x3 convolutions are attention from blocks to windows around them.

Vaswani, Ramachandran, Srinivas, Parmar, Hechtman, Shlens, "Scaling Local Self-Attention for Parameter
Efficient Visual Backbones", CVPR 2021, arXiv 2103.12731. The authors published no code; weights are those of
timm (huggingface/pytorch-image-models, Apache-2.0), whose reading of the paper this follows.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    ConvNorm,
    DropPath,
    FinalConvHead,
    Linear,
    PooledLinear,
    drop_path_rates,
    on_channels_last,
)
from ..ops import halo_attention
from ..ops.linear import ACTIVATIONS

STEMS = {"conv": (64,), "tiered": (24, 32, 64)}  # channels of its convolutions


def round_to_8(channels: float) -> int:
    """The nearest multiple of 8, or the next one where that is less by over a tenth; 8 at least."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class HaloAttention(nn.Module):
    """Attention from each block of a map to a window around it: (B, H, W, C) to (B, H / s, W / s, out_dims).

    Of strides there is one for queries alone, every second pixel; where a block has an odd side, or by
    ``avg_down``, all pixels are queries and 2 x 2 results have their mean. Sides are rounded up. There is no
    projection of the result.

    Args:
        embed_dims: C.
        out_dims: of the values, a multiple of ``num_heads``.
        num_heads: of the attention.
        block_size: pixels of a side of the blocks.
        halo_size: pixels of the window around them.
        head_dims: of the queries and keys of a head; by default those of ``qk_ratio``.
        qk_ratio: dims of all queries in units of ``out_dims``, rounded to a multiple of 8.
        stride: 1 or 2.
        avg_down: of a stride of 2, see above.
        qkv_bias: bias of queries, keys and values.
        scale_positions: scale the positions' logits as those of keys.
        mask_padding: keep what lies outside of the map out, see :func:`~dense.ops.halo_attention`.
        reference_quirks: as timm has it, count queries of a stride of 2 as if they were neighbours: the
            position of a key is off by the query's in its block.
    """

    def __init__(
        self,
        embed_dims: int,
        out_dims: int,
        num_heads: int,
        block_size: int,
        halo_size: int,
        *,
        head_dims: int | None = None,
        qk_ratio: float = 1.0,
        stride: int = 1,
        avg_down: bool = False,
        qkv_bias: bool = False,
        scale_positions: bool = False,
        mask_padding: bool = False,
        reference_quirks: bool = False,
    ):
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, found {stride}")
        if num_heads < 1 or out_dims % num_heads:
            raise ValueError(f"num_heads must divide out_dims {out_dims}, found {num_heads}")
        if block_size < 1 or halo_size < 0:
            raise ValueError(
                f"block_size must be positive, halo_size at least 0, found {block_size}, {halo_size}"
            )
        dims = round_to_8(out_dims * qk_ratio) // num_heads if head_dims is None else head_dims
        if dims < 1:
            raise ValueError(f"{num_heads} heads must have queries of 1 channel or more, found {dims}")
        self.num_heads, self.block_size, self.halo_size = num_heads, block_size, halo_size
        self.averaged = stride == 2 and (avg_down or block_size % 2 == 1)
        self.stride = 1 if self.averaged else stride
        self.step = 1 if reference_quirks else self.stride
        self.mask_padding = mask_padding
        self.scale = dims**-0.5
        self.position_scale = self.scale if scale_positions else 1.0
        self.q = Linear(embed_dims, num_heads * dims, bias=qkv_bias)
        self.kv = Linear(embed_dims, num_heads * dims + out_dims, bias=qkv_bias)
        rows = 2 * (block_size + 2 * halo_size) - 1
        self.row_table = nn.Parameter(torch.empty(rows, dims))
        self.column_table = nn.Parameter(torch.empty(rows, dims))
        for layer in (self.q, self.kv):
            nn.init.trunc_normal_(layer.weight, std=embed_dims**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for table in (self.row_table, self.column_table):
            nn.init.trunc_normal_(table, std=self.scale)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x[:, :: self.stride, :: self.stride])
        y = halo_attention(
            q.unflatten(3, (self.num_heads, -1)),
            self.kv(x).unflatten(3, (self.num_heads, -1)),
            self.row_table,
            self.column_table,
            self.block_size,
            self.halo_size,
            stride=self.stride,
            step=self.step,
            scale=self.scale,
            position_scale=self.position_scale,
            mask_padding=self.mask_padding,
        ).flatten(3)
        return (
            on_channels_last(partial(F.avg_pool2d, kernel_size=2, ceil_mode=True), y) if self.averaged else y
        )


class NormedAttention(nn.Module):
    """Attention, batch norm, activation: (B, C, H, W) to (B, D, H', W')."""

    def __init__(self, attn: HaloAttention, channels: int):
        super().__init__()
        self.attn = attn
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        y = self.attn(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return ACTIVATIONS[activation](self.norm(y))


class Bottleneck(nn.Module):
    """1x1 convolution, what mixes pixels, 1x1 convolution; added: (B, C, H, W) to (B, D, H / s, W / s).

    Args:
        in_channels: C.
        out_channels: D.
        middle: maps (B, ``widths[0]``, H, W) to (B, ``widths[1]``, H / s, W / s), and takes an activation.
        widths: see there.
        stride: s.
        act: activation, "relu" or "silu".
        drop_path_rate: of the branch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        middle: nn.Module,
        widths: tuple[int, int],
        stride: int = 1,
        act: str = "relu",
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        self.act = act
        self.conv1 = ConvNorm(in_channels, widths[0], 1)
        self.middle = middle
        self.conv3 = ConvNorm(widths[1], out_channels, 1, norm_weight_init=0.0)
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(in_channels, out_channels, 1, stride)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.middle(self.conv1(x, self.act), self.act))
        return ACTIVATIONS[self.act](self.shortcut(x) + self.drop_path(y))


class Stem(nn.Module):
    """Convolutions, the first of stride 2, and a pooling: (B, C, H, W) to (B, widths[-1], H / 4, W / 4)."""

    def __init__(self, in_channels: int, widths: Sequence[int], act: str):
        super().__init__()
        self.act = act
        size = 7 if len(widths) == 1 else 3
        self.convs = nn.ModuleList()
        for i, width in enumerate(widths):
            self.convs.append(
                ConvNorm(widths[i - 1] if i else in_channels, width, size, 1 if i else 2, size // 2)
            )

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, self.act)
        return F.max_pool2d(x, 3, 2, 1)


def _halonet(
    block_size: int,
    halo_size: int,
    value_ratio: float,
    out_ratio: float,
    depths: tuple[int, ...],
    final_dims: int = 0,
    **other: Any,
) -> dict[str, Any]:
    widths = (64, 128, 256, 512)
    return {
        "embed_dims": tuple(int(width * out_ratio) for width in widths),
        "widths": widths,
        "depths": depths,
        "num_heads": (8, 8, 8, 8),
        "value_ratio": value_ratio,
        "block_size": block_size,
        "halo_size": halo_size,
        "conv_blocks": ((), (), (), ()),
        "stem": "conv",
        "act": "relu",
        "final_dims": final_dims,
        **other,
    }


@register_backbone("halonet")
class HaloNet(Backbone):
    """Four stages of bottlenecks with halo attention, strides 4 to 32. Images of any size.

    Blocks that a map does not fill are completed by zeros, which are outside as the halo's are.

    Args:
        arch: a published variant, or a dict as those in ``archs``: the paper's ("h0" to "h7", whose heads it
            does not tell for all; 8 everywhere) and timm's hybrids ("26t", "50ts"). ``widths`` are those of
            queries and keys, ``embed_dims`` those of the maps; ``conv_blocks`` are, for each stage, the
            blocks that keep their 3x3 convolution.
        qkv_bias, scale_positions, mask_padding, reference_quirks: see :class:`HaloAttention`.
        drop_path_rate: of the last block; it grows linearly from 0.
        **kwargs: see :class:`~dense.base.Backbone`.
    """

    paper = (
        'Vaswani et al., "Scaling Local Self-Attention for Parameter Efficient Visual Backbones", CVPR 2021, '
        "arXiv 2103.12731"
    )
    code = "huggingface/pytorch-image-models"
    licence = "Apache-2.0"
    archs = {
        "h0": _halonet(8, 3, 1.0, 0.5, (3, 3, 7, 3)),
        "h1": _halonet(8, 3, 1.0, 1.0, (3, 3, 10, 3)),
        "h2": _halonet(8, 3, 1.0, 1.25, (3, 3, 11, 3)),
        "h3": _halonet(10, 3, 1.0, 1.5, (3, 3, 12, 3), 1024),
        "h4": _halonet(12, 2, 1.0, 3.0, (3, 3, 12, 3), 1280),
        "h5": _halonet(14, 2, 2.5, 2.0, (3, 3, 23, 3), 1536),
        "h6": _halonet(8, 4, 3.0, 2.75, (3, 3, 24, 3), 1536),
        "h7": _halonet(10, 3, 4.0, 3.5, (3, 3, 26, 3), 2048),
        "26t": _halonet(8, 2, 1.0, 4.0, (2, 2, 2, 2), stem="tiered", conv_blocks=((0, 1), (0, 1), (0,), ())),
        "50ts": _halonet(
            8,
            3,
            1.0,
            4.0,
            (3, 4, 6, 3),
            stem="tiered",
            act="silu",
            num_heads=(8, 4, 8, 8),
            conv_blocks=((0, 1, 2), (0, 1, 2), (0, 2, 4), (0, 2)),
        ),
    }
    num_parameters = {
        "h0": 5_500_952,
        "h1": 8_100_056,
        "h2": 9_404_312,
        "h3": 11_841_304,
        "h4": 19_101_976,
        "h5": 30_717_272,
        "h6": 43_456_792,
        "h7": 67_433_240,
        "26t": 12_480_288,
        "50ts": 22_733_280,
    }
    published = results(("ImageNet-1K top-1, %",), {"h7": (84.9,)})

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "26t",
        *,
        qkv_bias: bool = False,
        scale_positions: bool = False,
        mask_padding: bool = False,
        drop_path_rate: float = 0.0,
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        if spec["stem"] not in STEMS:
            raise ValueError(f"stem must be one of {list(STEMS)}, found {spec['stem']!r}")
        if spec["act"] not in ACTIVATIONS:
            raise ValueError(f"act must be one of {list(ACTIVATIONS)}, found {spec['act']!r}")
        dims, depths, act = spec["embed_dims"], spec["depths"], spec["act"]
        channels = STEMS[spec["stem"]][-1]
        self.downsamples.append(Stem(self.in_channels, STEMS[spec["stem"]], act))
        self.downsamples.extend(nn.Identity() for _ in depths[1:])  # the first block of a stage does it
        options = {
            "qkv_bias": qkv_bias,
            "scale_positions": scale_positions,
            "mask_padding": mask_padding,
            "reference_quirks": reference_quirks,
        }
        for i, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            width, heads, blocks = spec["widths"][i], spec["num_heads"][i], []
            for j, rate in enumerate(rates):
                stride = 2 if i and not j else 1
                values = width
                if j in spec["conv_blocks"][i]:
                    middle = ConvNorm(width, width, 3, stride, 1)
                else:
                    values = int(width * spec["value_ratio"])
                    windows = (spec["block_size"], spec["halo_size"])
                    options |= {"head_dims": width // heads, "stride": stride}
                    middle = NormedAttention(HaloAttention(width, values, heads, *windows, **options), values)
                blocks.append(Bottleneck(channels, dims[i], middle, (width, values), stride, act, rate))
                channels = dims[i]
            self.stages.append(nn.Sequential(*blocks))
        self.set_outputs(dims, [4 << i for i in range(len(dims))])

    def make_head(self, num_classes: int) -> PooledLinear:
        if not self.spec["final_dims"]:
            return PooledLinear(self.num_features, num_classes)
        return FinalConvHead(self.num_features, self.spec["final_dims"], num_classes, self.spec["act"])

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        arch = {
            **cls.archs["h0"],
            "depths": (1, 1, 1, 1),
            "conv_blocks": ((0,), (), (), ()),
            "final_dims": 64,
        }
        return cls.create(arch, **options)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return cls.drop_defaults(qkv_bias=any(key.endswith(".attn.q.bias") for key in state_dict))

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        spec = super().adapt_arch(spec, state_dict)
        convs, heads = [], list(spec["num_heads"])
        for i, depth in enumerate(spec["depths"]):
            starts = [f"backbone.stages.{i}.{j}.middle." for j in range(depth)]
            convs.append(tuple(j for j, start in enumerate(starts) if f"{start}conv.weight" in state_dict))
            tables = (state_dict.get(f"{start}attn.row_table") for start in starts)
            if found := {table.shape[1] for table in tables if table is not None}:
                heads[i] = spec["widths"][i] // max(found)
        return {**spec, "conv_blocks": tuple(convs), "num_heads": tuple(heads)}

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        block, ours = r"stages\.(\d)\.(\d+)\.", r"backbone.stages.\1.\2."
        middle = ours + "middle."
        stem = "backbone.downsamples.0.convs."
        renamed = rename_keys(
            cls.find_trunk(state_dict),
            [
                *[(rf"stem\.conv{i + 1}\.conv\.(.*)", stem + rf"{i}.conv.\1") for i in range(3)],
                *[(rf"stem\.conv{i + 1}\.bn\.(.*)", stem + rf"{i}.norm.\1") for i in range(3)],
                (block + r"conv([13])_1x1\.conv\.(.*)", ours + r"conv\3.conv.\4"),
                (block + r"conv([13])_1x1\.bn\.(.*)", ours + r"conv\3.norm.\4"),
                (block + r"conv2_kxk\.conv\.(.*)", middle + r"conv.\3"),
                (block + r"conv2_kxk\.bn\.(.*)", middle + r"norm.\3"),
                (block + r"shortcut\.conv\.(.*)", ours + r"shortcut.conv.\3"),
                (block + r"shortcut\.bn\.(.*)", ours + r"shortcut.norm.\3"),
                (block + r"self_attn\.pos_embed\.height_rel", middle + "attn.row_table"),
                (block + r"self_attn\.pos_embed\.width_rel", middle + "attn.column_table"),
                (block + r"self_attn\.(.*)", middle + r"attn.\3"),
                (block + r"post_attn\.(.*)", middle + r"norm.\3"),
                (r"final_conv\.conv\.(.*)", r"head.conv.conv.\1"),
                (r"final_conv\.bn\.(.*)", r"head.conv.norm.\1"),
                (r"head\.fc\.(.*)", r"head.fc.\1"),
            ],
        )
        return {k: v.flatten(1) if ".middle.attn." in k and v.ndim == 4 else v for k, v in renamed.items()}
