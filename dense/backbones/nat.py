"""NAT and DiNAT: pyramids of attention in the neighbourhood of each pixel, dense and dilated.

Hassani, Walton, Li, Li, Shi, "Neighborhood Attention Transformer", CVPR 2023, arXiv 2204.07143. Hassani, Shi,
"Dilated Neighborhood Attention Transformer", 2022, arXiv 2209.15001. Published code:
SHI-Labs/Neighborhood-Attention-Transformer, MIT.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle, islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    MLP,
    ConvLayerNorm,
    DropPath,
    LayerNorm2d,
    NeighborhoodAttention2d,
    PooledLinear,
    SelfAttention,
    SwinPatchMerging,
    add_scaled,
    drop_path_rates,
    init_normal,
    make_scale,
)

EPS = 1e-5  # of all norms
GRID = 14  # patches to a side at 224 pixels, which the tables of ViT-rpb are of


class GlobalAttention(SelfAttention):
    """Attention between all pixels with a bias for each relative position: (B, H, W, C) to the same.

    A map that is smaller than the table's takes the middle of the table; a larger one takes it stretched, by
    bicubic interpolation.

    Args:
        embed_dims, num_heads: see :class:`~dense.layers.SelfAttention`.
        grid: side of the table's map.
    """

    def __init__(self, embed_dims: int, num_heads: int, grid: int = GRID):
        super().__init__(embed_dims, num_heads)
        self.grid = grid
        self.rpb = nn.Parameter(torch.empty(num_heads, 2 * grid - 1, 2 * grid - 1))
        nn.init.trunc_normal_(self.rpb, std=0.02)

    def bias(self, height: int, width: int) -> Tensor:
        """(heads, N, N) of queries and keys of a map of N = height * width pixels."""
        table, sides = self.rpb, [max(side, self.grid) for side in (height, width)]
        if sides != [self.grid, self.grid]:
            size = [2 * side - 1 for side in sides]
            table = F.interpolate(table[None], size, mode="bicubic", align_corners=True)[0]
        rows, columns = (
            torch.arange(n, device=table.device) - torch.arange(n, device=table.device)[:, None] + side - 1
            for n, side in zip((height, width), sides, strict=True)
        )
        return table[:, rows[:, None, :, None], columns[None, :, None]].flatten(3).flatten(1, 2)

    def weigh(self, q: Tensor, k: Tensor, *size: int) -> Tensor:
        return (self.scale * q @ k.transpose(-2, -1) + self.bias(*size)).softmax(-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *size: int) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, self.bias(*size).to(q.dtype), scale=self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, *x.shape[1:3])


class Block(nn.Module):
    """Attention, then MLP, each normed before: (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        attn: maps (B, H, W, C) to the same.
        mlp_ratio: hidden width of the MLP, in units of C.
        drop_path_rate: of both branches.
        layer_scale: initial factor of both branches, one for each channel; 0 for none.
    """

    def __init__(
        self, embed_dims: int, attn: nn.Module, mlp_ratio: float, drop_path_rate: float, layer_scale: float
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, EPS)
        self.attn = attn
        self.norm2 = nn.LayerNorm(embed_dims, EPS)
        self.mlp = MLP(embed_dims, int(mlp_ratio * embed_dims))
        self.drop_path1, self.drop_path2 = DropPath(drop_path_rate), DropPath(drop_path_rate)
        self.gamma1 = make_scale(embed_dims, layer_scale) if layer_scale else None
        self.gamma2 = make_scale(embed_dims, layer_scale) if layer_scale else None

    def forward(self, x: Tensor) -> Tensor:
        x = add_scaled(x, self.drop_path1(self.attn(self.norm1(x))), self.gamma1)
        return add_scaled(x, self.drop_path2(self.mlp(self.norm2(x))), self.gamma2)


class Tokenizer(nn.Module):
    """Two convolutions of stride 2, norm: (B, in_channels, H, W) to (B, C, H / 4, W / 4), rounded up."""

    def __init__(self, in_channels: int, embed_dims: int):
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, embed_dims // 2, 3, 2, 1), nn.Conv2d(embed_dims // 2, embed_dims, 3, 2, 1)
        )
        self.norm = LayerNorm2d(embed_dims, EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class Downsampler(nn.Module):
    """Convolution of stride 2, norm: (B, in_channels, H, W) to (B, out_channels, H / 2, W / 2), rounded up.

    Args:
        in_channels, out_channels: of the maps.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.reduction = nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False)
        self.norm = LayerNorm2d(out_channels, EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x))


ONCE = ((1,),) * 4


def _arch(layout: str, width: int, heads: int, depths: Sequence[int], **other: Any) -> dict[str, Any]:
    scales = [2**i for i in range(len(depths))]
    return {
        "layout": layout,
        "embed_dims": tuple(width * scale for scale in scales),
        "depths": tuple(depths),
        "num_heads": tuple(heads * scale for scale in scales),
        "window_size": 7,
        "dilations": ONCE[: len(depths)],
        "mlp_ratio": 4.0,
        "layer_scale": 0.0,
        **other,
    }


def _nat(width: int, depth: int, mlp_ratio: float, layer_scale: float = 0.0, **other: Any) -> dict[str, Any]:
    own = {"mlp_ratio": mlp_ratio, "layer_scale": layer_scale, **other}
    return _arch("nat", width, width // 32, (3, 4, depth, 5), **own)


AT_224 = {"dilations": ((1, 8), (1, 4), (1, 2), (1,))}
AT_384 = {"dilations": ((1, 13), (1, 6), (1, 3), (1,))}


def _swin(width: int, depth: int) -> dict[str, Any]:
    return _arch("swin", width, width // 32, (2, 2, depth, 2), **AT_224)


def _isotropic(width: int, dilations: tuple[int, ...] = (1,), **other: Any) -> dict[str, Any]:
    return _arch("isotropic", width, width // 32, (12,), dilations=(dilations,), **other)


@register_backbone("nat")
class NAT(Backbone):
    """The neighborhood attention Transformers.

    Args:
        arch: a published variant, or a dict as those in ``archs``. NAT ("mini" to "base"); DiNAT, whose
            blocks dilate in turn ("dinat_mini" to "dinat_large", with dilations for 224 pixels, "..._384" for
            384); DiNAT_s, with the layers of Swin ("dinat_s_tiny" to "dinat_s_large"); and of one level,
            strides 16: "isotropic_...", "dinat_isotropic_..." and "vitrpb_...", which attends to all pixels;
            pixels that make no whole patch of 16 are left out. Of the keys, ``layout`` is "nat", "swin" or
            "isotropic"; ``dilations`` are those of each level, block by block, over and again (None is 1);
            ``window_size`` None is global attention.
        drop_path_rate: of the last block; it grows linearly from 0. Published: 0.2 (mini, tiny), 0.3 (small),
            0.5 (base), 0.35 (large; 0.2 on ImageNet-22K, DiNAT_s as it is), isotropic 0.1 (small), 0.4
            (base).
        small_input: what to do where a map is smaller than a window times its dilation: "error", or "pad" by
            zeros, see :class:`~dense.layers.NeighborhoodAttention2d`. Weights that were published with DiNAT
            want 224 pixels or more (or as named) else.
        attn_drop_rate, proj_drop_rate: of the attentions.
        **kwargs: see :class:`~dense.base.Backbone`.

    Raises:
        ValueError: (of a call) images that are smaller than :attr:`min_size`.
    """

    paper = 'Hassani et al., "Neighborhood Attention Transformer", CVPR 2023, arXiv 2204.07143'
    code = "SHI-Labs/Neighborhood-Attention-Transformer"
    licence = "MIT"
    archs = {
        "mini": _nat(64, 6, 3.0),
        "tiny": _nat(64, 18, 3.0),
        "small": _nat(96, 18, 2.0, 1e-5),
        "base": _nat(128, 18, 2.0, 1e-5),
        "dinat_mini": _nat(64, 6, 3.0, **AT_224),
        "dinat_tiny": _nat(64, 18, 3.0, **AT_224),
        "dinat_small": _nat(96, 18, 2.0, **AT_224),
        "dinat_base": _nat(128, 18, 2.0, 1e-5, **AT_224),
        "dinat_large": _nat(192, 18, 2.0, **AT_224),
        "dinat_large_384": _nat(192, 18, 2.0, **AT_384),
        "dinat_large_384_11x11": _nat(192, 18, 2.0, window_size=11, **AT_224),
        "dinat_s_tiny": _swin(96, 6),
        "dinat_s_small": _swin(96, 18),
        "dinat_s_base": _swin(128, 18),
        "dinat_s_large": _swin(192, 18),
        "isotropic_small": _isotropic(384),
        "isotropic_base": _isotropic(768),
        "dinat_isotropic_small": _isotropic(384, (1, 2)),
        "dinat_isotropic_base": _isotropic(768, (1, 2)),
        "vitrpb_small": _isotropic(384, window_size=None),
        "vitrpb_base": _isotropic(768, window_size=None),
    }
    num_parameters = {
        "mini": 19_984_174,
        "tiny": 27_901_582,
        "small": 50_743_297,
        "base": 89_769_652,
        "dinat_mini": 19_984_174,
        "dinat_tiny": 27_901_582,
        "dinat_small": 50_719_681,
        "dinat_base": 89_769_652,
        "dinat_large": 200_943_514,
        "dinat_large_384": 200_943_514,
        "dinat_large_384_11x11": 201_144_250,
        "dinat_s_tiny": 28_288_354,
        "dinat_s_small": 49_606_258,
        "dinat_s_base": 87_768_224,
        "dinat_s_large": 196_532_476,
        "isotropic_small": 21_999_736,
        "isotropic_base": 86_465_800,
        "dinat_isotropic_small": 21_999_736,
        "dinat_isotropic_base": 86_465_800,
        "vitrpb_small": 22_080_376,
        "vitrpb_base": 86_627_080,
    }
    twins = {
        "dinat_mini": "mini",
        "dinat_tiny": "tiny",
        "dinat_base": "base",
        "dinat_large_384": "dinat_large",
        "dinat_isotropic_small": "isotropic_small",
        "dinat_isotropic_base": "isotropic_base",
    }
    published = results(
        (
            "ImageNet-1K top-1, %",
            "ImageNet-1K top-1 at 384 pixels, %",
            "COCO Mask R-CNN 3x box AP",
            "COCO Mask R-CNN 3x mask AP",
            "COCO Cascade Mask R-CNN 3x box AP",
            "ADE20K UPerNet mIoU",
        ),
        {
            "mini": (81.8, None, 46.5, 41.7, 50.3, 45.1),
            "tiny": (83.2, None, 47.7, 42.6, 51.4, 47.1),
            "small": (83.7, None, 48.4, 43.2, 52.0, 48.0),
            "base": (84.3, None, None, None, 52.3, 48.5),
            "dinat_mini": (81.8, None, 47.2, 42.5, 51.2, 45.8),
            "dinat_tiny": (82.7, None, 48.6, 43.5, 52.2, 47.8),
            "dinat_small": (83.8, None, 49.3, 44.0, 52.9, 48.9),
            "dinat_base": (84.4, None, None, None, 53.4, 49.6),
            "dinat_large": (86.6, None, None, None, 55.3, 54.0),  # after ImageNet-22K, as those below
            "dinat_large_384": (None, 87.4, None, None, None, None),
            "dinat_large_384_11x11": (None, 87.5, None, None, None, None),
            "dinat_s_tiny": (81.8, *[None] * 5),
            "dinat_s_small": (83.5, *[None] * 5),
            "dinat_s_base": (83.8, *[None] * 5),
            "dinat_s_large": (86.5, 87.4, *[None] * 4),
            "isotropic_small": (80.0, *[None] * 5),
            "isotropic_base": (81.6, *[None] * 5),
            "dinat_isotropic_small": (80.8, *[None] * 5),
            "dinat_isotropic_base": (82.1, *[None] * 5),
            "vitrpb_small": (81.2, *[None] * 5),
            "vitrpb_base": (82.5, *[None] * 5),
        },
    )
    example_sizes = ((65, 65), (96, 65))  # a window fills the last map
    example_arch = {"embed_dims": (16, 32, 64, 128), "window_size": 3}
    channels_last = True

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "mini",
        *,
        drop_path_rate: float = 0.2,
        small_input: str = "error",
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims, depths, layout = spec["embed_dims"], spec["depths"], spec["layout"]
        if layout not in ("nat", "swin", "isotropic"):
            raise ValueError(f"layout must be 'nat', 'swin' or 'isotropic', found {layout!r}")
        first = 16 if layout == "isotropic" else 4
        if layout == "nat":
            self.downsamples.append(Tokenizer(self.in_channels, dims[0]))
        else:
            patches = partial(ConvLayerNorm, self.in_channels, dims[0], first, first, norm_eps=EPS)
            self.downsamples.append(patches(rounds_up=layout == "swin"))
        merging = Downsampler if layout == "nat" else partial(SwinPatchMerging, norm_eps=EPS)
        self.downsamples.extend(merging(*pair) for pair in pairwise(dims))

        def attention(channels: int, heads: int, dilation: int | None) -> nn.Module:
            if spec["window_size"] is None:
                return GlobalAttention(channels, heads)
            drops = {"attn_drop": attn_drop_rate, "proj_drop": proj_drop_rate, "small_input": small_input}
            return NeighborhoodAttention2d(channels, heads, spec["window_size"], dilation, **drops)

        of_levels = zip(
            dims, spec["num_heads"], spec["dilations"], drop_path_rates(drop_path_rate, depths), strict=True
        )
        for channels, heads, dilations, rates in of_levels:
            block = partial(Block, channels, mlp_ratio=spec["mlp_ratio"], layer_scale=spec["layer_scale"])
            pattern = islice(cycle(dilations), len(rates))
            self.stages.append(
                nn.ModuleList(
                    block(attention(channels, heads, dilation), drop_path_rate=rate)
                    for dilation, rate in zip(pattern, rates, strict=True)
                )
            )
        init_normal(self, nn.Linear)
        strides = [first * 2**i for i in range(len(dims))]
        self.set_outputs(dims, strides, partial(LayerNorm2d, eps=EPS))
        self.min_size = 16 if layout == "isotropic" else 1
        if small_input == "error":
            for stride, blocks in zip(strides, self.stages, strict=False):
                parts = [part for part in blocks.modules() if isinstance(part, NeighborhoodAttention2d)]
                least = max((max(part.min_size) for part in parts), default=1)
                # a side of L pixels makes one of ceil(L / stride), or of floor
                side = stride * least if layout == "isotropic" else stride * (least - 1) + 1
                self.min_size = max(self.min_size, side)

    def make_head(self, num_classes: int) -> PooledLinear:
        norm = LayerNorm2d(self.num_features, EPS)
        return PooledLinear(self.num_features, num_classes, norm, norm_first=True)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state = cls.find_trunk(state_dict)
        level, block = r"(?:levels|layers)\.(\d+)\.", r"backbone.stages."
        renamed = rename_keys(
            state,
            [
                (r".*\.relative_position_index", None),
                (r"patch_embed\.(.*)", r"backbone.downsamples.0.\1"),
                (level + r"blocks\.(.*)", block + r"\1.\2"),
                (level + r"downsample\.(.*)", r"after.\1.\2"),
                (r"layers\.(\d+\.(?:norm\d|attn|mlp|gamma\d).*)", block + r"0.\1"),
                (r"norm(\d\..*)", r"backbone.norms.\1"),  # of the copies for detection and segmentation
                (r"norm\.(.*)", r"head.norm.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )
        return {_before(key): value for key, value in renamed.items()}

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """With the depths, the windows, the width of the MLPs and the scales that converted weights have."""
        start = "backbone.stages.0.0."
        own = super().adapt_arch(spec, state_dict)
        hidden, table = state_dict.get(start + "mlp.fc1.weight"), state_dict.get(start + "attn.rpb")
        if hidden is not None:
            own["mlp_ratio"] = hidden.shape[0] / hidden.shape[1]
        if table is not None and spec["window_size"] is not None:
            own["window_size"] = (table.shape[-1] + 1) // 2
        scaled = start + "gamma1" in state_dict
        own["layer_scale"] = (spec["layer_scale"] or 1e-5) if scaled else 0.0
        return own


def _before(key: str) -> str:
    """A downsampling ends a published level; here it begins the next."""
    if not key.startswith("after."):
        return key
    _, level, rest = key.split(".", 2)
    return f"backbone.downsamples.{int(level) + 1}.{rest}"
