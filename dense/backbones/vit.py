"""ViT: the plain vision Transformer, as DeiT and DINOv2 publish it.

Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021,
arXiv 2010.11929. Touvron et al., "Training Data-Efficient Image Transformers & Distillation through
Attention" (DeiT), ICML 2021, arXiv 2012.12877. Oquab et al., "DINOv2: Learning Robust Visual Features without
Supervision", TMLR 2024, arXiv 2304.07193; Darcet et al., "Vision Transformers Need Registers", ICLR 2024,
arXiv 2309.16588. Published code: facebookresearch/deit and facebookresearch/dinov2, Apache-2.0.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys

from ..base import TokenBackbone, register_backbone
from ..layers import (
    MLP,
    ClassificationHead,
    DropPath,
    LayerNorm,
    LayerScale,
    Linear,
    SelfAttention,
    drop_path_rates,
    init_normal,
)
from ..layers.attention import join_qkv
from ..layers.heads import make_classifier


class SwiGLU(nn.Module):
    """Linear, silu(first half) * second half, Linear: (..., C) to the same.

    Source: Shazeer, "GLU Variants Improve Transformer", 2020, arXiv 2002.05202.

    Args:
        embed_dims: C.
        hidden_dims: width between the layers.
    """

    def __init__(self, embed_dims: int, hidden_dims: int):
        super().__init__()
        self.fc1 = Linear(embed_dims, 2 * hidden_dims)
        self.fc2 = Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, -1)
        return self.fc2(F.silu(gate) * value)


class Block(nn.Module):
    """Attention, then MLP, each normed before: (B, N, C) to the same.

    What a call has besides tokens goes to the attention.

    Args:
        embed_dims: C.
        attn: maps (B, N, C) to the same.
        mlp: the same.
        drop_path_rate: of both branches.
        layer_scale_init: initial factor of both branches, one for each channel; 0 for none.
        norm_eps: of both norms.
    """

    def __init__(
        self,
        embed_dims: int,
        attn: nn.Module,
        mlp: nn.Module,
        drop_path_rate: float = 0.0,
        layer_scale_init: float = 0.0,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.norm1 = LayerNorm(embed_dims, norm_eps)
        self.attn = attn
        self.norm2 = LayerNorm(embed_dims, norm_eps)
        self.mlp = mlp
        scaled = layer_scale_init > 0
        self.ls1 = LayerScale(embed_dims, layer_scale_init) if scaled else nn.Identity()
        self.ls2 = LayerScale(embed_dims, layer_scale_init) if scaled else nn.Identity()
        self.drop_path1 = DropPath(drop_path_rate)
        self.drop_path2 = DropPath(drop_path_rate)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), *context)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class DistilledHead(ClassificationHead):
    """Classifiers of the class and of the distillation token: (B, N, C) to (B, num_classes).

    In training both logits are returned, to learn from labels and from a teacher; evaluation takes their
    mean. Pre-logits are the mean of both tokens.
    """

    def __init__(self, embed_dims: int, num_classes: int):
        super().__init__(embed_dims, num_classes)
        self.dist = nn.Module()
        self.dist.fc = make_classifier(embed_dims, num_classes, self.init)

    def pre_logits(self, features: Tensor) -> Tensor:
        return features[:, :2].mean(1)

    def forward(self, features: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        if pre_logits:
            return self.pre_logits(features)
        logits = self.fc(features[:, 0]), self.dist.fc(features[:, 1])
        return logits if self.training else sum(logits) / 2


def _vit(
    embed_dims: int, depth: int, num_heads: int, patch_size: int = 16, img_size: int = 224, **other: Any
) -> dict[str, Any]:
    return {
        "embed_dims": embed_dims,
        "depth": depth,
        "num_heads": num_heads,
        "patch_size": patch_size,
        "img_size": img_size,
        "mlp": "mlp",
        "layer_scale_init": 0.0,
        "num_registers": 0,
        "distillation": False,
        "antialias": True,
        "scale_offset": 0.0,
        **other,
    }


def _dinov2(embed_dims: int, depth: int, num_heads: int, **other: Any) -> dict[str, Any]:
    resize = {"antialias": False, "scale_offset": 0.1, "layer_scale_init": 1e-5}
    if "num_registers" in other:
        resize |= {"antialias": True, "scale_offset": 0.0}
    return _vit(embed_dims, depth, num_heads, 14, 518, **{**resize, **other})


@register_backbone("vit")
class ViT(TokenBackbone):
    """The vision Transformer: pre-norm blocks of attention and MLP, positions in a learned table.

    Args:
        arch: a published variant, or a dict as those in ``archs``: DeiT's ("tiny" to "base", "..._distilled"
            with a second token, that learns from a teacher), ViT's larger ones, DINOv2's ("..._dinov2",
            "..._dinov2_reg4" with four registers), whose positions are those of 518 pixels.
        drop_path_rate: of the last block; it grows linearly from 0.
        qkv_bias: bias of queries, keys and values.
        num_registers: by default as in the variant.
        **kwargs: see :class:`~dense.base.token_backbone.TokenBackbone`.
    """

    paper = (
        'Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", '
        "ICLR 2021, arXiv 2010.11929"
    )
    code = "facebookresearch/deit"
    licence = "Apache-2.0"
    archs = {
        "tiny": _vit(192, 12, 3),
        "small": _vit(384, 12, 6),
        "base": _vit(768, 12, 12),
        "base_patch32": _vit(768, 12, 12, 32),
        "large": _vit(1024, 24, 16),
        "huge_patch14": _vit(1280, 32, 16, 14),
        "tiny_distilled": _vit(192, 12, 3, distillation=True),
        "small_distilled": _vit(384, 12, 6, distillation=True),
        "base_distilled": _vit(768, 12, 12, distillation=True),
        "small_dinov2": _dinov2(384, 12, 6),
        "base_dinov2": _dinov2(768, 12, 12),
        "large_dinov2": _dinov2(1024, 24, 16),
        "giant_dinov2": _dinov2(1536, 40, 24, mlp="swiglu"),
        "small_dinov2_reg4": _dinov2(384, 12, 6, num_registers=4),
        "base_dinov2_reg4": _dinov2(768, 12, 12, num_registers=4),
        "large_dinov2_reg4": _dinov2(1024, 24, 16, num_registers=4),
        "giant_dinov2_reg4": _dinov2(1536, 40, 24, mlp="swiglu", num_registers=4),
    }
    num_parameters = {
        "tiny": 5_717_416,
        "small": 22_050_664,
        "base": 86_567_656,
        "base_patch32": 88_224_232,
        "large": 304_326_632,
        "huge_patch14": 632_045_800,
        "tiny_distilled": 5_910_800,
        "small_distilled": 22_436_432,
        "base_distilled": 87_338_192,
        "small_dinov2": 22_056_192,
        "base_dinov2": 86_579_712,
        "large_dinov2": 304_367_616,
        "giant_dinov2": 1_136_479_232,
        "small_dinov2_reg4": 22_057_728,
        "base_dinov2_reg4": 86_582_784,
        "large_dinov2_reg4": 304_371_712,
        "giant_dinov2_reg4": 1_136_485_376,
    }
    published = {
        "tiny": {"ImageNet-1K top-1, %": 72.2},
        "small": {"ImageNet-1K top-1, %": 79.9},
        "base": {"ImageNet-1K top-1, %": 81.8},
        "tiny_distilled": {"ImageNet-1K top-1, %": 74.5},
        "small_distilled": {"ImageNet-1K top-1, %": 81.2},
        "base_distilled": {"ImageNet-1K top-1, %": 83.4},
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.0,
        qkv_bias: bool = True,
        num_registers: int | None = None,
        **kwargs,
    ):
        spec = self.find_arch(arch)
        super().__init__(
            arch,
            distillation_token=spec["distillation"],
            num_registers=spec["num_registers"] if num_registers is None else num_registers,
            **{"antialias": spec["antialias"], "scale_offset": spec["scale_offset"], **kwargs},
        )
        dims, hidden = spec["embed_dims"], 4 * spec["embed_dims"]
        if spec["mlp"] not in ("mlp", "swiglu"):
            raise ValueError(f"mlp must be 'mlp' or 'swiglu', found {spec['mlp']!r}")
        for rate in drop_path_rates(drop_path_rate, [spec["depth"]])[0]:
            attn = self.make_attention(dims, spec["num_heads"], qkv_bias)
            if spec["mlp"] == "swiglu":  # two thirds as wide, so that it has as many parameters
                mlp = SwiGLU(dims, -(-(hidden * 2 // 3) // 8) * 8)
            else:
                mlp = MLP(dims, hidden)
            self.blocks.append(Block(dims, attn, mlp, rate, spec["layer_scale_init"]))
        init_normal(self, nn.Linear)
        self.set_outputs()

    def make_attention(self, embed_dims: int, num_heads: int, qkv_bias: bool) -> SelfAttention:
        """Of one block; the first is made first."""
        return SelfAttention(embed_dims, num_heads, qkv_bias=qkv_bias)

    @classmethod
    def create(cls, arch: str | Mapping[str, Any], *, num_classes: int | None = None, **kwargs) -> nn.Module:
        """As of other backbones; DINOv2 was published without a classifier, so its default is 0 classes."""
        if num_classes is None:
            num_classes = 0 if "dinov2" in str(arch) else 1000
        return super().create(arch, num_classes=num_classes, **kwargs)

    def make_head(self, num_classes: int) -> ClassificationHead:
        if self.dist_token is not None:
            return DistilledHead(self.num_features, num_classes)
        return super().make_head(num_classes)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of DeiT, of timm's ViT, of DINOv2, and of DINOv2 as the library transformers has it."""
        state = {k.removeprefix("model."): v for k, v in cls.find_trunk(state_dict).items()}
        if any(key.startswith("embeddings.") for key in state):
            state = _from_transformers(state)
        block = r"blocks\.(\d+)\."
        renamed = rename_keys(
            state,
            [
                (r"(?:embeddings\.)?mask_token", None),  # of pre-training
                (r"(cls_token|dist_token|reg_token|pos_embed)", r"backbone.\1"),
                (r"(patch_embed\.proj\..*|norm\..*)", r"backbone.\1"),
                (r"register_tokens", r"backbone.reg_token"),
                (block + r"mlp\.w12\.(.*)", r"backbone.blocks.\1.mlp.fc1.\2"),
                (block + r"mlp\.w3\.(.*)", r"backbone.blocks.\1.mlp.fc2.\2"),
                (block + r"(.*)", r"backbone.blocks.\1.\2"),
                (r"head\.(.*)", r"head.fc.\1"),
                (r"head_dist\.(.*)", r"head.dist.fc.\1"),
            ],
        )
        table = renamed.get("backbone.pos_embed")
        if table is not None and table.shape[1] ** 0.5 % 1 == 0:  # timm keeps the class token's in itself
            renamed["backbone.pos_embed"] = torch.cat((table.new_zeros(1, 1, table.shape[2]), table), 1)
        return renamed


def _from_transformers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights named as in transformers' Dinov2Model, with DINOv2's own names."""
    block, ours = r"encoder\.layer\.(\d+)\.", r"blocks.\1."
    renamed = rename_keys(
        state_dict,
        [
            (r"embeddings\.position_embeddings", "pos_embed"),
            (r"embeddings\.(cls_token|mask_token|register_tokens)", r"\1"),
            (r"embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
            (r"layernorm\.(.*)", r"norm.\1"),
            (block + r"attention\.attention\.(query|key|value)\.(.*)", ours + r"attn.\2.\3"),
            (block + r"attention\.output\.dense\.(.*)", ours + r"attn.proj.\2"),
            (block + r"layer_scale(\d)\.lambda1", ours + r"ls\2.gamma"),
            (block + r"mlp\.weights_in\.(.*)", ours + r"mlp.w12.\2"),
            (block + r"mlp\.weights_out\.(.*)", ours + r"mlp.w3.\2"),
            (block + r"(.*)", ours + r"\2"),
        ],
    )
    return join_qkv(renamed, ("query", "key", "value"))
