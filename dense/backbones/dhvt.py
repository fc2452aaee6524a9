"""DHVT: a vision Transformer for small data, with overlapping patches, convolutions and tokens of heads.

Lu, Xie, Liu, Zhang, "Bridging the Gap Between Vision Transformers and Convolutional Neural Networks on Small
Datasets", NeurIPS 2022, arXiv 2210.05958. Published code: ArieSeirack/DHVT, Apache-2.0.
"""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys

from ..base import TokenBackbone, register_backbone
from ..base.token_backbone import Grid
from ..layers import ConvNorm, Linear, SelfAttention, drop_path_rates, init_normal
from . import vit


class Affine(nn.Module):
    """x * alpha + beta, both of each channel: (B, C, H, W) to the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, x, self.alpha)


class OverlappedPatchEmbed(nn.Module):
    """Convolutions 3x3 of stride 2 with batch norms, each but the first twice as wide as the one before:
    (B, in_channels, H, W) to (B, C, H / size, W / size), odd sides rounded up at each.

    GELU is between them, of patches of 2 pixels behind the only one.

    Args:
        in_channels: of the images.
        embed_dims: C, a multiple of half the patch size.
        patch_size: a power of 2.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int):
        super().__init__()
        depth = patch_size.bit_length() - 1
        if depth < 1 or patch_size != 1 << depth:
            raise ValueError(f"patch_size must be a power of 2, at least 2, found {patch_size}")
        if embed_dims % (patch_size // 2):
            raise ValueError(f"embed_dims must be a multiple of {patch_size // 2}, found {embed_dims}")
        widths = [in_channels, *(embed_dims >> i for i in reversed(range(depth)))]
        self.pre_affine = Affine(in_channels)
        self.proj = nn.ModuleList(ConvNorm(widths[i], widths[i + 1], 3, 2, 1) for i in range(depth))
        self.post_affine = Affine(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre_affine(x)
        for i, layer in enumerate(self.proj, start=1):
            x = layer(x, "gelu" if i < len(self.proj) or len(self.proj) == 1 else None)
        return self.post_affine(x)


class HeadTokenAttention(SelfAttention):
    """Self-attention with a further token of each head's channels: (B, 1 + N, C) to the same.

    A head's token is made of the mean of its channels over all tokens; what the head tokens become is
    averaged and added to the class token's output. Recorded weights are of 1 + N + heads tokens.

    Args:
        embed_dims: C.
        num_heads: divides C.
        qkv_bias: bias of queries, keys and values.
        drop_rate: of dropout of the output.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, qkv_bias: bool = True, drop_rate: float = 0.0):
        super().__init__(embed_dims, num_heads, qkv_bias=qkv_bias)
        width = embed_dims // num_heads
        self.pos_embed = nn.Parameter(torch.zeros(1, num_heads, embed_dims))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.ht_proj = Linear(width, embed_dims)
        self.ht_norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(drop_rate)

    def head_tokens(self, x: Tensor) -> Tensor:
        """(B, 1 + N, C) to (B, heads, C)."""
        tokens = self.ht_proj(x.mean(1).unflatten(1, (self.num_heads, -1)))  # (B, heads, C)
        tokens = F.gelu(self.ht_norm(tokens.unflatten(2, (self.num_heads, -1))))  # by groups of d
        return tokens.flatten(2) + self.pos_embed

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(torch.cat((x, self.head_tokens(x)), 1))
        token, patches, heads = y.split((1, x.shape[1] - 1, self.num_heads), 1)
        return self.drop(torch.cat((token + heads.mean(1, keepdim=True), patches), 1))


class DynamicFeedForward(nn.Module):
    """An inverted bottleneck of convolutions for the patches, whose mean gates the class token.

    (B, 1 + h * w, C) and the grid (h, w) to (B, 1 + h * w, C). The gate is not squashed: it can turn signs.

    Args:
        embed_dims: C, at least 4.
        hidden_dims: width of the depthwise convolution.
        gated: have the gate; without, the class token stays as it is.
    """

    def __init__(self, embed_dims: int, hidden_dims: int, gated: bool = True):
        super().__init__()
        self.gated = gated
        self.conv1 = ConvNorm(embed_dims, hidden_dims, 1, bias=True)
        self.conv2 = ConvNorm(hidden_dims, hidden_dims, 3, padding=1, groups=hidden_dims, bias=True)
        self.conv3 = ConvNorm(hidden_dims, embed_dims, 1, bias=True)
        if gated:
            self.compress = Linear(embed_dims, embed_dims // 4)
            self.excitation = Linear(embed_dims // 4, embed_dims)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        y = x[:, 1:].contiguous().unflatten(1, grid).permute(0, 3, 1, 2)  # channels last in memory
        y = self.conv1(y, "gelu")
        y = self.conv3(y + self.conv2(y, "gelu"))
        y = y.permute(0, 2, 3, 1).flatten(1, 2)
        token = x[:, :1]
        if self.gated:
            token = token * self.excitation(self.compress(y.mean(1, keepdim=True), activation="gelu"))
        return torch.cat((token, y), 1)


class Block(vit.Block):
    """Attention, then the feed-forward, each normed before: (B, 1 + h * w, C) and (h, w) to such tokens."""

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x), grid))


def _dhvt(
    embed_dims: int, num_heads: int, patch_size: int, img_size: int = 224, num_classes: int = 1000
) -> dict[str, Any]:
    return {
        "embed_dims": embed_dims,
        "depth": 12,
        "num_heads": num_heads,
        "patch_size": patch_size,
        "img_size": img_size,
        "num_classes": num_classes,
    }


@register_backbone("dhvt")
class DHVT(TokenBackbone):
    """DHVT: overlapping patches without positions, attention with head tokens, convolutions as feed-forward.

    Images may have any size; odd maps are rounded up.

    Args:
        arch: a published variant, or a dict as those in ``archs``, whose ``num_classes`` is the default of
            :meth:`create`.
        drop_path_rate: of the last block; it grows linearly from 0.
        qkv_bias: bias of queries, keys and values.
        drop_rate: of dropout of the attentions' outputs.
        class_output: have the gate of the class token in the last block, which no map depends on.
        reference_quirks: take any grid of patches for a square one, as published; grids that have not the
            number of a square's patches are refused.
        **kwargs: see :class:`~dense.base.token_backbone.TokenBackbone`.
    """

    paper = (
        'Lu, Xie, Liu, Zhang, "Bridging the Gap Between Vision Transformers and Convolutional Neural '
        'Networks on Small Datasets", NeurIPS 2022, arXiv 2210.05958'
    )
    code = "ArieSeirack/DHVT"
    licence = "Apache-2.0"
    archs = {
        "tiny_cifar_patch4": _dhvt(192, 4, 4, 32, 100),
        "tiny_cifar_patch2": _dhvt(192, 4, 2, 32, 100),
        "small_cifar_patch4": _dhvt(384, 8, 4, 32, 100),
        "small_cifar_patch2": _dhvt(384, 8, 2, 32, 100),
        "tiny_domain_patch16": _dhvt(192, 4, 16, num_classes=345),
        "small_domain_patch16": _dhvt(384, 6, 16, num_classes=345),
        "tiny_imagenet_patch16": _dhvt(192, 3, 16),
        "small_imagenet_patch16": _dhvt(384, 6, 16),
    }
    num_parameters = {
        "tiny_cifar_patch4": 6_008_650,
        "tiny_cifar_patch2": 5_845_162,
        "small_cifar_patch4": 23_425_450,
        "small_cifar_patch2": 22_766_698,
        "tiny_domain_patch16": 6_105_975,
        "small_domain_patch16": 23_788_431,
        "tiny_imagenet_patch16": 6_267_334,
        "small_imagenet_patch16": 24_040_606,
    }
    published = {
        "tiny_cifar_patch4": {"CIFAR-100 top-1, %": 80.93},
        "tiny_cifar_patch2": {"CIFAR-100 top-1, %": 83.54},
        "small_cifar_patch4": {"CIFAR-100 top-1, %": 82.91},
        "small_cifar_patch2": {"CIFAR-100 top-1, %": 85.68},
        "tiny_domain_patch16": {"DomainNet ClipArt top-1, %": 71.73},
        "small_domain_patch16": {"DomainNet ClipArt top-1, %": 73.89},
        "tiny_imagenet_patch16": {"ImageNet-1K top-1, %": 76.5},
        "small_imagenet_patch16": {"ImageNet-1K top-1, %": 82.3},
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny_cifar_patch4",
        *,
        drop_path_rate: float = 0.1,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        class_output: bool = False,
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, positions=False, **kwargs)
        self.reference_quirks = reference_quirks
        dims = self.spec["embed_dims"]
        self.patch_embed = OverlappedPatchEmbed(self.in_channels, dims, self.spec["patch_size"])
        for i, rate in enumerate(drop_path_rates(drop_path_rate, [self.spec["depth"]])[0]):
            attn = HeadTokenAttention(dims, self.spec["num_heads"], qkv_bias=qkv_bias, drop_rate=drop_rate)
            mlp = DynamicFeedForward(dims, 4 * dims, gated=class_output or i < self.out_indices[-1])
            self.blocks.append(Block(dims, attn, mlp, rate))
        init_normal(self, nn.Linear)
        self.set_outputs()

    def run_block(self, index: int, tokens: Tensor, grid: Grid) -> Tensor:
        if self.reference_quirks:
            side = isqrt(grid[0] * grid[1])
            if side * side != grid[0] * grid[1]:
                raise ValueError(
                    f"with reference_quirks there must be as many patches as in a square, found {grid[0]} x "
                    f"{grid[1]}"
                )
            grid = (side, side)
        return self._run(self.blocks[index], tokens, grid)

    @classmethod
    def create(cls, arch: str | Mapping[str, Any], *, num_classes: int | None = None, **kwargs) -> nn.Module:
        """As of other backbones; the default number of classes is that of the variant's data."""
        classes = cls.find_arch(arch)["num_classes"] if num_classes is None else num_classes
        return super().create(arch, num_classes=classes, **kwargs)

    @classmethod
    def classifier_options(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        return {**super().classifier_options(arch), "class_output": True}

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        blocks, gates = (
            sum(key.endswith(name) for key in state_dict) for name in (".norm1.weight", ".compress.weight")
        )
        whole = blocks == gates and not any(key.startswith("head.") for key in state_dict)
        biased = any(key.endswith(".attn.qkv.bias") for key in state_dict)
        return cls.drop_defaults(qkv_bias=biased, class_output=whole)

    @classmethod
    def names_fit(cls, arch: str, state_dict: Mapping[str, Tensor]) -> bool:
        """DomainNet's and ImageNet's small networks are one, but for the number of their classes."""
        head = cls.find_trunk(state_dict).get("head.weight")
        of_domain = head is not None and len(head) == cls.archs["small_domain_patch16"]["num_classes"]
        return arch not in ("small_domain_patch16", "small_imagenet_patch16") or of_domain == (
            "domain" in arch
        )

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        embedding = [
            (rf"patch_embed\.proj\.{2 * i}\.{j}\.(.*)", rf"backbone.patch_embed.proj.{i}.{name}.\1")
            for i in range(4)
            for j, name in enumerate(("conv", "norm"))
        ]
        layer = r"(blocks\.\d+\.mlp\.)"
        return rename_keys(
            cls.find_trunk(state_dict),
            [
                *embedding,
                (layer + r"conv(\d)\.(.*)", r"backbone.\1conv\2.conv.\3"),
                (layer + r"bn(\d)\.(.*)", r"backbone.\1conv\2.norm.\3"),
                (r"(cls_token|(?:patch_embed\.p|blocks\.|norm\.).*)", r"backbone.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )
