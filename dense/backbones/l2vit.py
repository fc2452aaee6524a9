"""L2ViT: softmax attention in windows and linear attention between all positions, in turn.

"The Linear Attention Resurrection in Vision Transformer", 2025, arXiv 2501.16182. Published code:
ChuanyangZheng/L2ViT, MIT.
"""

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    MLP,
    ConditionalPosition,
    ConvNorm,
    DropPath,
    LayerNorm2d,
    LocalPatchInteraction,
    PatchMerging,
    PooledLinear,
    SelfAttention,
    WindowAttention,
    drop_path_rates,
    init_normal,
    on_channels_last,
)
from ..ops import complete, linear_attention
from . import davit

EPS = 1e-5  # of all norms


class GlobalAttention(SelfAttention):
    r"""Linear attention with ReLU and a bounded denominator: (B, H, W, C), or tokens (B, N, C), to the same.

    .. math:: y_i = t \, \frac{q_i^\top \sum_j k_j v_j^\top}{\max(q_i \cdot \sum_j k_j, m)}

    of queries and keys after ReLU, with a learned factor t for each head. Time and memory are linear in N.

    Args:
        embed_dims: C.
        num_heads: divides C.
        qkv_bias: bias of queries, keys and values.
        denominator_min: m. Of few or small tokens it bounds every denominator: weights sum to less than t.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, qkv_bias: bool = True, denominator_min: float = 100.0
    ):
        super().__init__(embed_dims, num_heads, qkv_bias=qkv_bias)
        self.denominator_min = denominator_min
        self.temperature = nn.Parameter(torch.full((num_heads, 1, 1), self.scale))

    def weigh(self, q: Tensor, k: Tensor) -> Tensor:
        products = q.relu() @ k.relu().transpose(-2, -1)
        return self.temperature * products / products.sum(-1, keepdim=True).clamp(min=self.denominator_min)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        how = {"scale": self.temperature, "minimum": self.denominator_min}
        return linear_attention(q, k, v, feature="relu", **how)


class GlobalBlock(nn.Module):
    """Position, attention, local concentration, MLP: (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        attn: maps (B, H, W, C) to the same.
        drop_path_rate: of the three branches.
        cpe_act: GELU in the position encoding.
    """

    def __init__(self, embed_dims: int, attn: nn.Module, drop_path_rate: float, cpe_act: bool = False):
        super().__init__()
        self.cpe = ConditionalPosition(embed_dims, act=nn.GELU() if cpe_act else None)
        self.norm1 = nn.LayerNorm(embed_dims, EPS)
        self.attn = attn
        self.norm2 = nn.LayerNorm(embed_dims, EPS)
        self.local = LocalPatchInteraction(embed_dims, 7)
        self.norm3 = nn.LayerNorm(embed_dims, EPS)
        self.mlp = MLP(embed_dims, 4 * embed_dims)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cpe(x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(on_channels_last(self.local, self.norm2(x)))
        return x + self.drop_path(self.mlp(self.norm3(x)))


class Stem(nn.Module):
    """Two convolutions 3x3 of stride 2, norm: (B, in_channels, H, W) to (B, C, H / 4, W / 4), rounded up."""

    def __init__(self, in_channels: int, embed_dims: int):
        super().__init__()
        self.conv1 = ConvNorm(in_channels, embed_dims // 2, 3, 2, 1, bias=True)
        self.conv2 = ConvNorm(embed_dims // 2, embed_dims, 3, 2, 1, bias=True)
        self.norm = LayerNorm2d(embed_dims, EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv2(self.conv1(complete(x, 4), "relu")))


def _l2vit(width: int, depth: int, window_size: int = 7) -> dict[str, Any]:
    dims = tuple(width * 2**i for i in range(4))
    return {
        "embed_dims": dims,
        "depths": (2, 2, depth, 2),
        "num_heads": tuple(channels // 32 for channels in dims),
        "window_size": window_size,
    }


@register_backbone("l2vit")
class L2ViT(Backbone):
    """The linear global attention, local window attention vision Transformer.

    In each stage, blocks 0, 2, 4, ... attend in windows, blocks 1, 3, 5, ... everywhere.

    Args:
        arch: a published variant, or a dict as those in ``archs``.
        drop_path_rate: of the last block; it grows linearly from 0. Published for base: 0.3.
        qkv_bias: bias of queries, keys and values.
        cpe_act: GELU in the position encodings.
        denominator_min: see :class:`GlobalAttention`.
        mask_padding: keep the zeros that complete the last windows out of the attention; by default so,
            unless ``reference_quirks``.
        reference_quirks: let these zeros be keys and values, as published. Where both sides of the image are
            multiples of 32 windows' sides (224 pixels, for windows of 7) there are none.
        **kwargs: see :class:`Backbone`.
    """

    paper = '"The Linear Attention Resurrection in Vision Transformer", 2025, arXiv 2501.16182'
    code = "ChuanyangZheng/L2ViT"
    licence = "MIT"
    archs = {
        "tiny": _l2vit(96, 6),
        "small": _l2vit(96, 18),
        "base": _l2vit(128, 18),
        "base_384": _l2vit(128, 18, window_size=12),
    }
    example_arch = {"embed_dims": (24, 48, 96, 192)}
    num_parameters = {
        "tiny": 28_596_781,
        "small": 50_199_157,
        "base": 88_577_188,
        "base_384": 88_577_188,
    }
    twins = {"base_384": "base"}  # windows leave no trace in weights
    published = results(
        ("ImageNet-1K top-1, %", "ImageNet-22K, then 1K top-1, %"),
        {"tiny": (83.1, None), "small": (84.1, None), "base": (84.4, 86.0), "base_384": (None, 87.0)},
    )
    channels_last = True

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.1,
        qkv_bias: bool = True,
        cpe_act: bool = False,
        denominator_min: float = 100.0,
        mask_padding: bool | None = None,
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims = spec["embed_dims"]
        mask_padding = not reference_quirks if mask_padding is None else mask_padding
        self.downsamples.append(Stem(self.in_channels, dims[0]))
        self.downsamples.extend(PatchMerging(*pair, norm_eps=EPS) for pair in pairwise(dims))
        rates = drop_path_rates(drop_path_rate, spec["depths"])
        for channels, heads, of_blocks in zip(dims, spec["num_heads"], rates, strict=True):
            windows = partial(WindowAttention, channels, heads, spec["window_size"], qkv_bias, mask_padding)
            everywhere = partial(GlobalAttention, channels, heads, qkv_bias, denominator_min)
            self.stages.append(
                nn.ModuleList(
                    GlobalBlock(channels, everywhere(), rate, cpe_act)
                    if i % 2
                    else davit.Block(channels, windows(), rate, cpe_act=cpe_act)
                    for i, rate in enumerate(of_blocks)
                )
            )
        init_normal(self, nn.Linear, nn.Conv2d)
        self.set_outputs(dims, (4, 8, 16, 32), partial(LayerNorm2d, eps=EPS))

    def make_head(self, num_classes: int) -> PooledLinear:
        norm = LayerNorm2d(self.num_features, EPS)
        return PooledLinear(self.num_features, num_classes, norm, norm_first=True)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state = cls.find_trunk(state_dict)
        stem = r"downsample_layers\.0\."
        parts = (("0", "conv1.conv"), ("1", "conv1.norm"), ("3", "conv2.conv"), ("4", "conv2.norm"))
        rules = [
            *((rf"{stem}proj\.proj\.{a}\.(.*)", rf"backbone.downsamples.0.{b}.\1") for a, b in parts),
            (stem + r"norm\.(.*)", r"backbone.downsamples.0.norm.\1"),
            (r"downsample_layers\.([1-3])\.(proj|norm)\.(.*)", r"backbone.downsamples.\1.\2.\3"),
            (r"norm(\d\..*)", r"backbone.norms.\1"),  # of copies for detection and segmentation
            (r"norm\.(.*)", r"head.norm.\1"),
            (r"head\.(.*)", r"head.fc.\1"),
        ]
        # blocks with linear attention have one position encoding, and norms in another order
        block, ours = r"stages\.(\d)\.(\d*[13579])\.", r"backbone.stages.\1.\2."
        for theirs, names in (
            (r"cpe\.0\.", "cpe."),
            (r"norm2\.", "norm3."),
            (r"norm3\.", "norm2."),
            (r"local_mp\.bn\.", "local.norm."),
            (r"local_mp\.", "local."),
            (r"(?=attn\.|mlp\.|norm1\.)", ""),
        ):
            rules.append((f"{block}{theirs}(.*)", f"{ours}{names}\\3"))
        rules.append((r"stages\.(\d\.\d*[02468]\.(?:cpe\.\d|attn|norm[12]|mlp)\..*)", r"backbone.stages.\1"))
        return rename_keys(state, rules)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return cls.drop_defaults(qkv_bias="backbone.stages.0.0.attn.qkv.bias" in state_dict)
