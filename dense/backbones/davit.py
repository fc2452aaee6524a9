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

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    MLP,
    ConditionalPosition,
    ConvLayerNorm,
    DropPath,
    LayerNorm2d,
    Linear,
    PatchMerging,
    PooledLinear,
    WindowAttention,
    drop_path_rates,
    init_normal,
)

EPS = 1e-5  # of all norms
OPTIONAL = {"qkv_bias": ".attn.qkv.bias", "ffn": ".mlp."}  # options, and keys that show them


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
    """Position, attention, position, MLP: (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        attn: maps (B, H, W, C) to the same.
        drop_path_rate: of both branches.
        ffn: end with the MLP.
        cpe_act: GELU in the position encodings.
    """

    def __init__(
        self, embed_dims: int, attn: nn.Module, drop_path_rate: float, ffn: bool = True, cpe_act: bool = False
    ):
        super().__init__()
        self.cpe = nn.ModuleList(
            ConditionalPosition(embed_dims, act=nn.GELU() if cpe_act else None) for _ in range(2)
        )
        self.norm1 = nn.LayerNorm(embed_dims, EPS)
        self.attn = attn
        self.drop_path1 = DropPath(drop_path_rate)
        self.ffn = ffn
        if ffn:
            self.norm2 = nn.LayerNorm(embed_dims, EPS)
            self.mlp = MLP(embed_dims, 4 * embed_dims)
            self.drop_path2 = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cpe[0](x)
        x = self.cpe[1](x + self.drop_path1(self.attn(self.norm1(x))))
        return x + self.drop_path2(self.mlp(self.norm2(x))) if self.ffn else x


def _published(
    width: int, depths: tuple[int, ...], window_size: int = 7, overlapped_patch: bool = False
) -> dict[str, Any]:
    dims = tuple(width * 2**i for i in range(4))
    return {
        "embed_dims": dims,
        "depths": depths,
        "num_heads": tuple(channels // 32 for channels in dims),
        "window_size": window_size,
        "overlapped_patch": overlapped_patch,
    }


@register_backbone("davit")
class DaViT(Backbone):
    """The dual attention vision transformer.

    Args:
        arch: a published variant, or a dict as those in ``archs``; depths count pairs of blocks. Huge and
            giant exist on paper only: their windows here are those of large, and their parameters (362 M,
            1.44 B) tell that patches overlap.
        drop_path_rate: of the last block; it grows linearly from 0.
        qkv_bias: bias of queries, keys and values.
        ffn: MLPs in the blocks.
        cpe_act: GELU in the position encodings.
        overlapped_patch: merge patches of 3x3 pixels, which overlap, not 2x2. By default as in the variant.
        mask_padding: keep the zeros that complete the last windows out of the attention; by default so,
            unless ``reference_quirks``.
        reference_quirks: let these zeros be keys and values, as published. Where both sides of the image are
            multiples of 32 windows' sides (224 pixels, for windows of 7) there are none.
        **kwargs: see :class:`Backbone`.
    """

    paper = 'Ding et al., "DaViT: Dual Attention Vision Transformers", ECCV 2022, arXiv 2204.03645'
    code = "dingmyu/davit"
    licence = "MIT"
    archs = {
        "tiny": _published(96, (1, 1, 3, 1)),
        "small": _published(96, (1, 1, 9, 1)),
        "base": _published(128, (1, 1, 9, 1)),
        "large": _published(192, (1, 1, 9, 1), window_size=12),
        "huge": _published(256, (1, 1, 9, 1), window_size=12, overlapped_patch=True),
        "giant": _published(384, (1, 1, 12, 3), window_size=12, overlapped_patch=True),
    }
    example_arch = {"embed_dims": (24, 48, 96, 192)}
    num_parameters = {
        "tiny": 28_360_168,
        "small": 49_745_896,
        "base": 87_954_408,
        "large": 196_811_752,
        "huge": 362_685_416,
        "giant": 1_437_435_880,
    }
    published = results(
        (
            "ImageNet-1K top-1, %",
            "ImageNet-1K top-5, %",
            "COCO RetinaNet 1x AP",
            "COCO RetinaNet 3x AP",
            "COCO Mask R-CNN 1x box AP",
            "COCO Mask R-CNN 1x mask AP",
            "COCO Mask R-CNN 3x box AP",
            "COCO Mask R-CNN 3x mask AP",
            "ADE20K UPerNet mIoU",
        ),
        {
            "tiny": (82.8, 96.2, 44.0, 46.5, 45.0, 41.1, 47.4, 42.9, 46.3),
            "small": (84.2, 96.9, 46.0, 48.2, 47.7, 42.9, 49.5, 44.3, 48.8),
            "base": (84.6, 96.9, 46.7, 48.7, 48.2, 43.3, 49.9, 44.6, 49.4),
            # after ImageNet-22K or more, at 384 or more pixels
            "large": (87.5, *[None] * 8),
            "huge": (90.2, *[None] * 8),
            "giant": (90.4, *[None] * 8),
        },
    )
    channels_last = True

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
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims, depths = spec["embed_dims"], spec["depths"]
        if overlapped_patch is None:
            overlapped_patch = spec["overlapped_patch"]
        if mask_padding is None:
            mask_padding = not reference_quirks
        self.downsamples.append(ConvLayerNorm(self.in_channels, dims[0], 7, 4, 3, norm_eps=EPS))
        self.downsamples.extend(
            PatchMerging(*pair, overlapped=overlapped_patch, norm_eps=EPS) for pair in pairwise(dims)
        )
        of_stages = drop_path_rates(drop_path_rate, [2 * depth for depth in depths])
        for channels, heads, rates in zip(dims, spec["num_heads"], of_stages, strict=True):
            windows = partial(WindowAttention, channels, heads, spec["window_size"], qkv_bias, mask_padding)
            groups = partial(ChannelAttention, channels, heads, qkv_bias)
            block = partial(Block, channels, ffn=ffn, cpe_act=cpe_act)
            self.stages.append(
                nn.ModuleList(
                    nn.Sequential(block(windows(), first), block(groups(), second))
                    for first, second in zip(rates[::2], rates[1::2], strict=True)
                )
            )
        init_normal(self, nn.Linear)
        self.set_outputs(dims, (4, 8, 16, 32), partial(LayerNorm2d, eps=EPS))

    def make_head(self, num_classes: int) -> PooledLinear:
        return PooledLinear(self.num_features, num_classes, nn.LayerNorm(self.num_features, EPS))

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return rename_keys(
            cls.find_trunk(state_dict),
            [
                (r"patch_embeds\.(.*)", r"backbone.downsamples.\1"),
                (r"main_blocks\.(.*)", r"backbone.stages.\1"),
                (r"norm(\d\..*)", r"backbone.norms.\1"),  # of the copies for detection and segmentation
                (r"norms\.(.*)", r"head.norm.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        found = {name: any(part in key for key in state_dict) for name, part in OPTIONAL.items()}
        return cls.drop_defaults(**found)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        merging = state_dict.get("backbone.downsamples.1.proj.weight")
        overlapped = merging is not None and merging.shape[-1] == 3
        return {**super().adapt_arch(spec, state_dict), "overlapped_patch": overlapped}
