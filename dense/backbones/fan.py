"""FAN: fully attentional network, with token-aware average pooling before its attention.

Zhou et al., "Understanding the Robustness in Vision Transformers" (FAN), ICML 2022, arXiv 2204.12451. Guo et
al., "Robustifying Token Attention for Vision Transformers" (TAP, ADL), ICCV 2023, arXiv 2303.11126. Published
code: guoyongcs/TAPADL, MIT.
"""

from collections.abc import Mapping, Sequence
from math import pi
from typing import Any

import torch
from torch import Tensor, nn

from pointsuite.engine.checkpoint import rename_keys

from ..base import TokenBackbone, register_backbone
from ..layers import (
    MLP,
    ClassAttention,
    ClassificationHead,
    ConvNorm,
    DropPath,
    LayerNorm,
    LayerNorm2d,
    Linear,
    LocalPatchInteraction,
    PatchEmbed,
    SelfAttention,
    TokenAwarePooling,
    add_scaled,
    init_normal,
    make_scale,
)
from ..layers.attention import join_qkv

Grid = tuple[int, int]
FREQUENCIES = 32


class NormedStem(nn.Module):
    """Four normed convolutions of stride 2: (B, in_channels, H, W) to (B, C, H / 16, W / 16)."""

    def __init__(self, in_channels: int, embed_dims: int):
        super().__init__()
        widths = (in_channels, embed_dims // 8, embed_dims // 4, embed_dims // 2, embed_dims)
        self.convs = nn.ModuleList(
            ConvNorm(before, after, 3, 2, 1) for before, after in zip(widths, widths[1:], strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        *first, last = self.convs
        for conv in first:
            x = conv(x, "gelu")
        return last(x)


class UnbiasedNorm2d(LayerNorm2d):
    """A layer norm by the unbiased variance, sqrt(1 - 1 / C) of the right one: (B, C, H, W) to the same."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, 1, keepdim=True)
        y = (x - mean) * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias.view(-1, 1, 1), y, self.weight.view(-1, 1, 1))


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution 7x7, norm, MLP, scaled: (B, C, H, W) to the same.

    Source: Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv 2201.03545.
    """

    def __init__(self, embed_dims: int, norm: type[LayerNorm2d] = LayerNorm2d):
        super().__init__()
        self.conv_dw = nn.Conv2d(embed_dims, embed_dims, 7, padding=3, groups=embed_dims)
        self.norm = norm(embed_dims)
        self.mlp = MLP(embed_dims, 4 * embed_dims)
        self.gamma = make_scale(embed_dims, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.conv_dw(x)).permute(0, 2, 3, 1))
        return add_scaled(x, y.permute(0, 3, 1, 2), self.gamma.view(-1, 1, 1))


class HybridStem(nn.Module):
    """Two stages of ConvNeXt, then patches of 2: (B, in_channels, H, W) to (B, C, H / 16, W / 16).

    With ``reference_quirks`` all norms but the first are as published, :class:`UnbiasedNorm2d`.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        widths: Sequence[int] = (128, 256),
        depths: Sequence[int] = (3, 3),
        reference_quirks: bool = False,
    ):
        super().__init__()
        norm = UnbiasedNorm2d if reference_quirks else LayerNorm2d
        self.downsamples, self.stages = nn.ModuleList(), nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if i == 0:
                parts = (nn.Conv2d(in_channels, width, 4, 4), LayerNorm2d(width))
            else:
                parts = (norm(widths[i - 1]), nn.Conv2d(widths[i - 1], width, 2, 2))
            self.downsamples.append(nn.Sequential(*parts))
            self.stages.append(nn.Sequential(*[ConvNeXtBlock(width, norm) for _ in range(depth)]))
        self.proj = nn.Conv2d(widths[-1], embed_dims, 2, 2)

    def trunk(self, x: Tensor) -> Tensor:
        """The map of stride 8."""
        for downsample, stage in zip(self.downsamples, self.stages, strict=True):
            x = stage(downsample(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.trunk(x))


def fourier_positions(height: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of both coordinates of a map: (1, 4 * 16, height, width), of ``like``'s type.

    A coordinate runs from near 0 to 2 pi whatever the side; its 32 channels alternate sine and cosine, of
    frequencies that fall geometrically from 1 to near 1/10,000; those of y come first.
    """

    def encode(count: int) -> Tensor:
        at = torch.arange(1, count + 1, device=like.device, dtype=torch.float32) / (count + 1e-6) * 2 * pi
        index = torch.arange(FREQUENCIES, device=like.device, dtype=torch.float32)
        angle = at[:, None] / 10_000 ** (2 * (index // 2) / FREQUENCIES)
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), 2).flatten(1).T

    y, x = encode(height)[:, :, None], encode(width)[:, None, :]
    size = (FREQUENCIES, height, width)
    return torch.cat((y.expand(size), x.expand(size)))[None].to(like.dtype)


class ConvValues(nn.Module):
    """Linear, a residual of convolutions scaled by channel, Linear: (B, N, C) to the same.

    There is no activation but the one between the convolutions.

    Args:
        embed_dims: C.
        hidden_dims: width between the layers.
    """

    def __init__(self, embed_dims: int, hidden_dims: int):
        super().__init__()
        self.fc1 = Linear(embed_dims, hidden_dims)
        self.gamma = make_scale(hidden_dims, 1.0)
        self.local = LocalPatchInteraction(hidden_dims)
        self.fc2 = Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        z = self.fc1(x)
        maps = z.unflatten(1, grid).permute(0, 3, 1, 2)
        maps = self.local(maps)
        return self.fc2(add_scaled(z, maps.flatten(2).mT, self.gamma))


class ChannelAttention(nn.Module):
    """Values whose channels are gated by how their queries agree with the tokens: (B, N, C) to the same.

    Args:
        embed_dims: C.
        num_heads: divides C.
        mlp_ratio: hidden width of the values' MLP, in units of C.
    """

    def __init__(self, embed_dims: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.q = Linear(embed_dims, embed_dims)
        self.mlp_v = ConvValues(embed_dims, int(mlp_ratio * embed_dims))
        self.norm_v = nn.LayerNorm(embed_dims)

    def gates(self, x: Tensor) -> Tensor:
        """Of each channel: (B, 1, C)."""
        q = self.q(x).softmax(1).unflatten(2, (self.num_heads, -1))
        keys = x.softmax(1).unflatten(2, (self.num_heads, -1)).mean(3)  # of a token in a head: (B, N, heads)
        gates = torch.einsum("bnhd,bnh->bhd", q, keys).sigmoid() * self.temperature[:, 0]
        return gates.flatten(1)[:, None]

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return self.gates(x) * self.norm_v(self.mlp_v(x, grid))


class FANBlock(nn.Module):
    """Pooling and attention of tokens, then of channels, each scaled: (B, N, C) to the same.

    Args:
        embed_dims: C.
        num_heads: divides C.
        num_scales: of the pooling; None for none.
        mlp_ratio: see :class:`ChannelAttention`.
        drop_path_rate: of both branches.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_scales: int | None,
        mlp_ratio: float,
        drop_path_rate: float,
    ):
        super().__init__()
        self.pool = nn.Identity() if num_scales is None else TokenAwarePooling(embed_dims, num_scales)
        self.norm1 = LayerNorm(embed_dims)
        self.attn = SelfAttention(embed_dims, num_heads)
        self.gamma1 = make_scale(embed_dims, 1.0)
        self.norm2 = LayerNorm(embed_dims)
        self.mlp = ChannelAttention(embed_dims, num_heads, mlp_ratio)
        self.gamma2 = make_scale(embed_dims, 1.0)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        pooled = self.pool(x.mT.unflatten(2, grid)).flatten(2).mT
        x = add_scaled(x, self.drop_path(self.attn(self.norm1(pooled))), self.gamma1)
        return add_scaled(x, self.drop_path(self.mlp(self.norm2(x), grid)), self.gamma2)


class ClassAttentionBlock(nn.Module):
    """Class attention, then an MLP of the class token: (B, N, C) to the same.

    The second norm takes the place of the tokens, and the last residual doubles those of the patches: so
    published.
    """

    def __init__(self, embed_dims: int, num_heads: int):
        super().__init__()
        self.norm1 = LayerNorm(embed_dims)
        self.attn = ClassAttention(embed_dims, num_heads)
        self.gamma1 = make_scale(embed_dims, 1.0)
        self.norm2 = LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, 4 * embed_dims)
        self.gamma2 = make_scale(embed_dims, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        y = torch.cat((self.attn(y), y[:, 1:]), 1)
        x = self.norm2(add_scaled(x, y, self.gamma1))
        return x + torch.cat((self.gamma2 * self.mlp(x[:, :1]), x[:, 1:]), 1)


class ClassAttentionHead(ClassificationHead):
    """A class token that attends to the patches, norm, Linear: (B, N, C) to (B, num_classes).

    Args:
        embed_dims: C.
        num_classes: number of logits.
        num_heads: divides C.
        depth: number of blocks.
    """

    def __init__(self, embed_dims: int, num_classes: int, num_heads: int, depth: int = 2):
        super().__init__(embed_dims, num_classes)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.blocks = nn.ModuleList(ClassAttentionBlock(embed_dims, num_heads) for _ in range(depth))
        self.norm = LayerNorm(embed_dims)
        init_normal(self.blocks, nn.Linear)

    def pre_logits(self, features: Tensor) -> Tensor:
        x = torch.cat((self.cls_token.expand(len(features), -1, -1), features), 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])


def _fan(embed_dims: int, depth: int, num_heads: int, stem: str = "conv") -> dict[str, Any]:
    return {
        "embed_dims": embed_dims,
        "depth": depth,
        "num_heads": num_heads,
        "patch_size": 16,
        "img_size": 224,
        "mlp_ratio": 4.0,
        "stem": stem,
    }


@register_backbone("fan")
class FAN(TokenBackbone):
    """Blocks of token-aware pooling, attention of tokens and attention of channels; class attention on top.

    Positions are computed, so images may have any size that patches of 16 divide.

    Args:
        arch: a published variant, or a dict as those in ``archs``; "hybrid" ones begin with ConvNeXt's
            stages.
        num_scales: of the token-aware pooling; None for the plain network without it.
        drop_path_rate: of all blocks: it does not grow.
        reference_quirks: see :class:`HybridStem`; published weights of hybrids were trained so.
        **kwargs: see :class:`~dense.base.token_backbone.TokenBackbone`.
    """

    folder = "tapadl"
    title = "FAN with TAP"
    paper = (
        'Guo et al., "Robustifying Token Attention for Vision Transformers", ICCV 2023, arXiv 2303.11126; '
        'Zhou et al., "Understanding the Robustness in Vision Transformers", ICML 2022, arXiv 2204.12451'
    )
    code = "guoyongcs/TAPADL"
    licence = "MIT"
    archs = {
        "tiny_12_p16": _fan(192, 12, 4),
        "tiny_8_hybrid": _fan(192, 8, 8, "hybrid"),
        "small_12_p16": _fan(384, 12, 8),
        "small_12_hybrid": _fan(384, 10, 8, "hybrid"),  # of depth 10, whatever its name says
        "base_18_p16": _fan(448, 18, 8),
        "base_16_hybrid": _fan(448, 16, 8, "hybrid"),
    }
    num_parameters = {
        "tiny_12_p16": 7_404_688,
        "tiny_8_hybrid": 7_523_752,
        "small_12_p16": 28_513_048,
        "small_12_hybrid": 26_257_704,
        "base_18_p16": 54_643_360,
        "base_16_hybrid": 50_735_528,
    }
    published = {
        "base_16_hybrid": {
            "ImageNet-1K top-1, %": 84.3,
            "ImageNet-C mCE, %": 43.7,
            "ImageNet-A top-1, %": 42.3,
            "ImageNet-P mFR, %": 29.2,
            "Cityscapes mIoU, %": 82.9,
        }
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny_12_p16",
        *,
        num_scales: int | None = 4,
        drop_path_rate: float = 0.0,
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, class_token=False, positions=False, norm_eps=None, **kwargs)
        spec = self.spec
        dims, heads = spec["embed_dims"], spec["num_heads"]
        if spec["stem"] == "conv":
            stem = NormedStem(self.in_channels, dims)
        elif spec["stem"] == "hybrid":
            stem = HybridStem(self.in_channels, dims, reference_quirks=reference_quirks)
        else:
            raise ValueError(f"stem must be 'conv' or 'hybrid', found {spec['stem']!r}")
        self.patch_embed = PatchEmbed(self.in_channels, dims, spec["patch_size"], stem)
        self.token_projection = nn.Conv2d(2 * FREQUENCIES, dims, 1)
        for _ in range(spec["depth"]):
            self.blocks.append(FANBlock(dims, heads, num_scales, spec["mlp_ratio"], drop_path_rate))
        init_normal(self.blocks, nn.Linear)
        self.set_outputs()

    def positions(self, grid: Grid) -> Tensor:
        encoded = fourier_positions(*grid, like=self.token_projection.weight)
        return self.token_projection(encoded).flatten(2).mT

    def run_block(self, index: int, tokens: Tensor, grid: Grid) -> Tensor:
        return self._run(self.blocks[index], tokens, grid)

    def make_head(self, num_classes: int) -> ClassAttentionHead:
        return ClassAttentionHead(self.num_features, num_classes, self.spec["num_heads"])

    def _frozen_modules(self) -> Sequence[nn.Module]:
        frozen = super()._frozen_modules()
        return [*frozen, self.token_projection] if frozen else []

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        scales = [len(v) for k, v in state_dict.items() if k.endswith(".pool.proj.0.weight")]
        return cls.drop_defaults(num_scales=scales[0] if scales else None)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        block, ours = r"blocks\.(\d+)\.", r"backbone.blocks.\1."
        stem, trunk = r"patch_embed\.backbone\.", r"backbone.patch_embed.proj."
        renamed = rename_keys(
            cls.find_trunk(state_dict),
            [
                (stem + r"stem\.(.*)", trunk + r"downsamples.0.\1"),
                (stem + r"stages\.(\d)\.downsample\.(.*)", trunk + r"downsamples.\1.\2"),
                (stem + r"stages\.(\d)\.blocks\.(.*)", trunk + r"stages.\1.\2"),
                (r"patch_embed\.proj\.(weight|bias)", trunk + r"proj.\1"),
                *[
                    (rf"patch_embed\.proj\.{2 * i}\.{j}\.(.*)", trunk + rf"convs.{i}.{name}.\1")
                    for i in range(4)
                    for j, name in enumerate(("conv", "norm"))
                ],
                (r"pos_embed\.(.*)", r"backbone.\1"),
                (block + r"dilation_predictor\.(.*)", ours + r"pool.\2"),
                (block + r"mlp\.mlp_v\.dwconv\.bn\.(.*)", ours + r"mlp.mlp_v.local.norm.\2"),
                (block + r"mlp\.mlp_v\.dwconv\.(.*)", ours + r"mlp.mlp_v.local.\2"),
                (block + r"(.*)", ours + r"\2"),
                (r"cls_token", "head.cls_token"),
                (r"cls_attn_blocks\.(.*)", r"head.blocks.\1"),
                (r"norm\.(.*)", r"head.norm.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )
        renamed = join_qkv(renamed, ("q", "kv"), r"backbone\..*\.attn")
        renamed = join_qkv(renamed, ("q", "k", "v"), r"head\..*")
        return {k: v.flatten(1) if _is_linear(k, v) else v for k, v in renamed.items()}


def _is_linear(key: str, value: Tensor) -> bool:
    """Whether weights are of a 1x1 convolution that is a linear layer here."""
    return ".stages." in key and ".mlp." in key and value.ndim == 4
