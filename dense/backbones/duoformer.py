"""DuoFormer: a ResNet whose maps are cut into regions; attention between the scales of a region, then between
regions.

Tang, Zhang, Ho, Knudsen, Tasdizen, "DuoFormer: Leveraging Hierarchical Representations by Local and Global
Attention Vision Transformer", MIDL 2025 (PMLR 301), arXiv 2506.12982, earlier 2407.13920. Published code:
xiaoyatang/duoformer_TCGA, without a licence; this is written from the paper and the published numbers.
"""

import re
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys

from ..base import register_backbone
from ..base.backbone import BaseBackbone
from ..layers import (
    MLP,
    ClassAttention,
    ClassificationHead,
    ConvNorm,
    LayerNorm,
    LayerScale,
    Linear,
    SelfAttention,
    TokenHead,
    init_normal,
    resize_positions,
    run_block,
)
from .resnet import ResNet

SCALE_TOKENS = ("random", "channel", "first", "average")
STRIDE = 32  # of the coarsest map, whose pixels are the regions
TRUNK = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
Grid = tuple[int, int]


class Attention(ClassAttention):
    """Self-attention with dropout and norms of queries and keys: (B, N, C) to the same.

    Args:
        embed_dims: C.
        num_heads: divides C.
        scale: see :class:`~dense.layers.SelfAttention`.
        attn_drop_rate, drop_rate: dropout of the weights, and of what comes out.
        qk_norm: layer norms of queries and keys within a head.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        scale: float | None = None,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
        qk_norm: bool = False,
    ):
        super().__init__(embed_dims, num_heads, scale=scale)
        width = embed_dims // num_heads
        self.attn_drop_rate = attn_drop_rate
        self.drop = nn.Dropout(drop_rate)
        self.q_norm = LayerNorm(width, 1e-5) if qk_norm else nn.Identity()
        self.k_norm = LayerNorm(width, 1e-5) if qk_norm else nn.Identity()

    def weigh(self, q: Tensor, k: Tensor, *context: Any) -> Tensor:
        weights = super().weigh(self.q_norm(q), self.k_norm(k))
        return F.dropout(weights, self.attn_drop_rate, self.training)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *context: Any) -> Tensor:
        rate = self.attn_drop_rate if self.training else 0.0
        return F.scaled_dot_product_attention(
            self.q_norm(q), self.k_norm(k), v, dropout_p=rate, scale=self.scale
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(SelfAttention.forward(self, x))

    def first(self, x: Tensor) -> Tensor:
        """What :meth:`forward` makes of the first token, (B, 1, C), for a fraction of the products."""
        if isinstance(self.q_norm, LayerNorm) or (self.training and self.attn_drop_rate):
            return self(x)[:, :1]
        return self.drop(ClassAttention.forward(self, x))


class ScaleBlock(nn.Module):
    """Attention, then MLP, each normed before, among the tokens of a region: (B * R, S, C) to the same.

    Args:
        embed_dims: C.
        attn: maps (B, N, C) to the same.
        hidden_dims: of the MLP.
        layer_scale_init: initial factor of both branches; None for none.
        drop_rate: dropout of what comes out of the MLP.
    """

    def __init__(
        self,
        embed_dims: int,
        attn: Attention,
        hidden_dims: int,
        layer_scale_init: float | None = None,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.norm1 = LayerNorm(embed_dims)
        self.attn = attn
        self.norm2 = LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, hidden_dims)
        self.drop = nn.Dropout(drop_rate)
        scaled = layer_scale_init is not None
        self.ls1 = LayerScale(embed_dims, layer_scale_init) if scaled else nn.Identity()
        self.ls2 = LayerScale(embed_dims, layer_scale_init) if scaled else nn.Identity()

    def forward(self, x: Tensor, only_first: bool = False) -> Tensor:
        """With ``only_first``, the first token of the result alone, (B * R, 1, C)."""
        if only_first:
            x = x[:, :1] + self.ls1(self.attn.first(self.norm1(x)))
        else:
            x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.drop(self.mlp(self.norm2(x))))


class MultiscaleFormer(nn.Module):
    """Scale attention within regions, patch attention between them: tokens (B, R, S, C) of R regions.

    Args:
        embed_dims, num_heads, depth: C, heads, blocks of either kind.
        mlp_ratio: hidden channels of MLPs to C.
        num_tokens: S, with the scale token where there is one.
        grid: rows and columns of the regions that the table of positions has.
        pool: what a region gives to patch attention: its "first" token, or the "average" of all.
        patch_attn: have patch attention; without, a region gives the average of its tokens.
        patch_residual: add what a patch block makes to what it is given. As published it takes its place,
            which leaves a token less of its own with every block.
        layer_scale_init: of scale blocks; None for none.
        scale: of the products of queries and keys; by default the width of a head to the power -0.5.
        attn_drop_rate, drop_rate: dropout of attention weights, and of what branches add.
        qk_norm: layer norms of queries and keys in patch attention.
        discard_blocks: of the patch blocks, take the first and the last alone.
        with_cp: keep only the inputs of scale blocks in training.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        depth: int,
        mlp_ratio: float,
        num_tokens: int,
        grid: Grid,
        *,
        pool: str = "first",
        patch_attn: bool = True,
        patch_residual: bool = False,
        layer_scale_init: float | None = None,
        scale: float | None = None,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
        qk_norm: bool = False,
        discard_blocks: bool = False,
        with_cp: bool = False,
    ):
        super().__init__()
        self.grid, self.pool = grid, pool
        self.patch_residual, self.discard_blocks, self.with_cp = patch_residual, discard_blocks, with_cp
        rates = (attn_drop_rate, drop_rate)
        self.scale_embed = nn.Parameter(torch.empty(1, 1, num_tokens, embed_dims))
        hidden = int(mlp_ratio * embed_dims)
        self.scale_blocks, self.patch_blocks = nn.ModuleList(), nn.ModuleList()
        for _ in range(depth):
            attn = Attention(embed_dims, num_heads, scale, *rates)
            self.scale_blocks.append(ScaleBlock(embed_dims, attn, hidden, layer_scale_init, drop_rate))
        self.cls_token = self.pos_embed = None
        if patch_attn:
            for _ in range(depth):
                self.patch_blocks.append(Attention(embed_dims, num_heads, scale, *rates, qk_norm))
            self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dims))
            self.pos_embed = nn.Parameter(torch.empty(1, 1 + grid[0] * grid[1], embed_dims))
            nn.init.normal_(self.cls_token, std=0.036)
            nn.init.trunc_normal_(self.pos_embed, std=0.036)
        nn.init.trunc_normal_(self.scale_embed, std=0.036)
        init_normal(self, nn.Linear)

    def attend_scales(self, x: Tensor, only_first: bool = False) -> Tensor:
        """Tokens (B, R, S, C) to the same; with ``only_first`` the first of each region, (B, R, 1, C)."""
        regions = x.shape[:2]
        x = (x + self.scale_embed).flatten(0, 1)
        for i, block in enumerate(self.scale_blocks):
            alone = only_first and i + 1 == len(self.scale_blocks)
            x = run_block(block, x, alone, with_cp=self.with_cp and self.training)
        return x.unflatten(0, regions)

    @property
    def pools_first(self) -> bool:
        """Whether nothing but the first token of each region counts in the end."""
        return self.cls_token is not None and self.pool == "first"

    def pool_regions(self, x: Tensor) -> Tensor:
        """Tokens (B, R, S, C), or the first alone, to one for each region, (B, R, C)."""
        return x[:, :, 0] if self.pools_first else x.mean(2)

    def attend_patches(self, x: Tensor, grid: Grid) -> Tensor:
        """Regions (B, R, C) of a grid to a class token and regions, (B, 1 + R, C)."""
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1)
        x = x + resize_positions(self.pos_embed, self.grid, grid)
        blocks = list(self.patch_blocks)
        for block in [blocks[0], *blocks[1:][-1:]] if self.discard_blocks else blocks:
            x = x + block(x) if self.patch_residual else block(x)
        return x

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Tokens (B, R, S, C) to a class token and regions, (B, 1 + R, C); without patch attention to a map
        of the regions, (B, C, rows, columns).
        """
        x = self.pool_regions(self.attend_scales(x, self.pools_first))
        return x.mT.unflatten(2, grid) if self.cls_token is None else self.attend_patches(x, grid)


class ChannelToken(nn.Module):
    """A token for each region from the maps of all four stages: (B, rows, columns, C).

    Args:
        channels: of the maps, strides 4 to 32.
        embed_dims: C.
    """

    def __init__(self, channels: Sequence[int], embed_dims: int):
        super().__init__()
        first, second = channels[:2]
        self.first = nn.Sequential(nn.Conv2d(first, first, 3, 2, 1), nn.Conv2d(first, first, 3, 2, 1))
        self.second = nn.Conv2d(second, second, 3, 2, 1)
        widths = [sum(channels), *[embed_dims] * 4]
        self.mix = nn.ModuleList(
            ConvNorm(*pair, 3, padding=1, bias=True) for pair in zip(widths, widths[1:], strict=False)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        halved = [self.first(maps[0]), self.second(maps[1]), maps[2]]
        x = torch.cat([*(F.max_pool2d(y, 2) for y in halved), maps[3]], 1)
        for conv in self.mix:
            x = conv(x, "relu")
        return x.permute(0, 2, 3, 1)


class DuoHead(TokenHead):
    """The class token, norm or none, Linear: (B, 1 + R, C) to (B, num_classes).

    Args:
        norm: have one.
        squeeze: drop the axis of the batch at one image, as the first published class does.
    """

    def __init__(self, embed_dims: int, num_classes: int, norm: bool = False, squeeze: bool = False):
        super().__init__(embed_dims, num_classes, norm=LayerNorm(embed_dims) if norm else None)
        self.squeeze = squeeze

    def classify(self, x: Tensor) -> Tensor:
        logits = super().classify(x)
        return logits.squeeze() if self.squeeze else logits


class RegionHead(ClassificationHead):
    """A learned sum of regions, Linear: a map (B, C, rows, columns) to (B, num_classes).

    The weights of another grid are resized, and keep their mean times the number of regions.

    Args:
        grid: rows and columns of the weights.
    """

    def __init__(self, embed_dims: int, num_classes: int, grid: Grid):
        super().__init__(embed_dims, num_classes)
        self.grid = grid
        self.regions = nn.Linear(grid[0] * grid[1], 1)

    def pre_logits(self, features: Tensor) -> Tensor:
        grid = tuple(features.shape[2:])
        weight = resize_positions(self.regions.weight[..., None], self.grid, grid)[..., 0]
        weight = weight * (self.grid[0] * self.grid[1] / (grid[0] * grid[1]))
        return F.linear(features.flatten(2), weight, self.regions.bias)[..., 0]


def _duoformer(num_scales: int, scale_token: str, depth: int = 12, num_heads: int = 12, **other: Any) -> dict:
    return {
        "backbone": "50",
        "num_scales": num_scales,
        "scale_token": scale_token,
        "embed_dims": 768,
        "depth": depth,
        "num_heads": num_heads,
        "mlp_ratio": 4.0,
        "img_size": 224,
        "design": "duoformer",
        **other,
    }


@register_backbone("duoformer")
class DuoFormer(BaseBackbone):
    """Scale attention in regions of 32 x 32 pixels, patch attention between them, over a ResNet.

    A region has 1, 4, 16 and 64 pixels of the maps of strides 32, 16, 8 and 4, and a scale token. Images of
    any size: they are padded with zeros to multiples of 32, and the table of positions is resized. As a dense
    backbone it returns, for each map that it uses, the tokens of its pixels after scale attention, all with
    ``embed_dims`` channels; but for the coarsest the regions after patch attention.

    Args:
        arch: a published variant, or a dict as those in ``archs``: ``backbone`` is a variant of
            :class:`~dense.backbones.ResNet`, or a dict of its keys; ``num_scales`` of its maps are used, the
            coarsest; ``scale_token`` is "random" (learned, the same for all regions), "channel" (convolutions
            of all maps), "first" or "average" (none: a region gives its first token, that of the coarsest
            map, or the mean of all); ``design`` is "duoformer", or "scaleformer" for the first published one,
            with factors of branches, a last norm, and logits scaled by 2 / sqrt(embed_dims).
        patch_attn: have patch attention; without, logits are of a learned sum of the regions.
        patch_residual: patch blocks add to what they are given; see :class:`MultiscaleFormer`.
        layer_scale_init: initial factor of scale blocks' branches; by default that of the design, if any.
        attn_drop_rate, drop_rate: dropout of attention weights, and of what attentions and MLPs give.
        qk_norm: layer norms of queries and keys in patch attention.
        freeze_backbone: the ResNet does not learn, nor do its batch norms take statistics.
        backbone_init_cfg: MMEngine's ``init_cfg`` of the ResNet.
        reference_quirks: as published: a positive ``attn_drop_rate`` is taken for ``qk_norm``, and
            ``drop_rate`` for the dropout of attention weights, its only one; batch norms of a frozen ResNet
            go on taking statistics; the "scaleformer" design applies all its patch blocks after the first to
            the same tokens, of which only the last one's count, and drops the axis of the batch at one image.
            (With two scales the published main class has a table of the wrong length and does not run.)
        **kwargs: see :class:`~dense.base.backbone.BaseBackbone`; ``out_indices`` are of the maps that are
            used, ``frozen_stages`` of the ResNet.
    """

    paper = (
        'Tang et al., "DuoFormer: Leveraging Hierarchical Representations by Local and Global Attention '
        'Vision Transformer", MIDL 2025, arXiv 2506.12982'
    )
    code = "xiaoyatang/duoformer_TCGA"
    licence = "none"
    archs = {
        "r50_s3_random": _duoformer(3, "random"),
        "r50_s3_channel": _duoformer(3, "channel"),
        "r50_s4_random": _duoformer(4, "random"),
        "r50_s4_channel": _duoformer(4, "channel"),
        "r50_s4_channel_d8": _duoformer(4, "channel", 8, 8),
        "scaleformer_r50_s2": _duoformer(2, "channel", design="scaleformer"),
    }
    example_arch = {
        "backbone": {"embed_dims": (16, 24, 32, 48), "depths": (1, 1, 1, 1), "expansion": 1},
        "scale_token": "channel",
        "embed_dims": 48,
        "num_heads": 4,
        "img_size": 96,
    }
    num_parameters = {
        "r50_s3_random": 140_491_560,
        "r50_s3_channel": 186_507_304,
        "r50_s4_random": 140_738_088,
        "r50_s4_channel": 186_753_832,
        "r50_s4_channel_d8": 148_952_872,
        "scaleformer_r50_s2": 186_121_000,
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "r50_s3_random",
        *,
        patch_attn: bool = True,
        patch_residual: bool = False,
        layer_scale_init: float | None = None,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
        qk_norm: bool = False,
        freeze_backbone: bool = False,
        backbone_init_cfg: dict | None = None,
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, lambda spec: spec["num_scales"], **kwargs)
        spec = self.spec
        dims, scales, token = spec["embed_dims"], spec["num_scales"], spec["scale_token"]
        legacy = spec["design"] == "scaleformer"
        if spec["design"] not in ("duoformer", "scaleformer"):
            raise ValueError(f"design must be 'duoformer' or 'scaleformer', found {spec['design']!r}")
        if token not in SCALE_TOKENS:
            raise ValueError(f"scale_token must be one of {SCALE_TOKENS}, found {token!r}")
        if not 1 <= scales <= 4:
            raise ValueError(f"num_scales must be in 1..4, found {scales}")
        if spec["img_size"] < STRIDE or spec["img_size"] % STRIDE:
            raise ValueError(f"img_size must be a multiple of {STRIDE}, found {spec['img_size']}")
        self.freeze_backbone, self.reference_quirks = freeze_backbone, reference_quirks
        self.trunk = ResNet(
            spec["backbone"],
            in_channels=self.in_channels,
            frozen_stages=self.frozen_stages,
            with_cp=self.with_cp,
            init_cfg=backbone_init_cfg,
        )
        channels = self.trunk.out_channels
        # the deepest first, as tokens stand in a region
        self.projections = nn.ModuleDict({str(i): Linear(channels[i], dims) for i in self._stages})
        for layer in self.projections.values():
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)
        self.scale_token = None
        if token == "random":
            self.scale_token = nn.Parameter(torch.empty(1, 1, 1, dims))
            nn.init.normal_(self.scale_token, std=0.036)
        elif token == "channel":
            self.scale_token = ChannelToken(channels, dims)
            for conv in self.scale_token.modules():
                if isinstance(conv, nn.Conv2d):
                    nn.init.kaiming_normal_(conv.weight)
                    nn.init.normal_(conv.bias, std=1e-6)
        if reference_quirks and attn_drop_rate:
            qk_norm, attn_drop_rate, drop_rate = True, drop_rate, 0.0
        side = spec["img_size"] // STRIDE
        self.patch_attn = patch_attn
        self.transformer = MultiscaleFormer(
            dims,
            spec["num_heads"],
            spec["depth"],
            spec["mlp_ratio"],
            sum(4**i for i in range(scales)) + (self.scale_token is not None),
            (side, side),
            pool="average" if token == "average" else "first",
            patch_attn=patch_attn and self._ends_coarse,
            patch_residual=patch_residual,
            layer_scale_init=1e-5 if legacy and layer_scale_init is None else layer_scale_init,
            scale=2 * dims**-0.5 if legacy else None,
            attn_drop_rate=attn_drop_rate,
            drop_rate=drop_rate,
            qk_norm=qk_norm,
            discard_blocks=legacy and reference_quirks,
            with_cp=self.with_cp,
        )
        self.out_channels = (dims,) * len(self.out_indices)
        self.strides = tuple(STRIDE >> (scales - 1 - i) for i in self.out_indices)
        self.num_features = dims
        self._finish()

    @property
    def _stages(self) -> list[int]:
        """Of the ResNet, those that are used, the deepest first."""
        return [3 - i for i in range(self.spec["num_scales"])]

    @property
    def _ends_coarse(self) -> bool:
        """Whether the coarsest map, that of the regions, is among the outputs."""
        return self.out_indices[-1] == self.spec["num_scales"] - 1

    # ---------------------------------------------------------------------------------------------- forward

    def embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Images (B, in_channels, H, W) to tokens (B, R, S, C), and the rows and columns of the R regions."""
        self._check_images(x)
        maps = self.trunk(F.pad(x, (0, -x.shape[3] % STRIDE, 0, -x.shape[2] % STRIDE)))
        batch, grid = len(x), tuple(maps[3].shape[2:])
        parts = []
        if isinstance(self.scale_token, ChannelToken):
            parts.append(self.scale_token(maps).flatten(1, 2)[:, :, None])
        elif self.scale_token is not None:
            parts.append(self.scale_token.expand(batch, grid[0] * grid[1], -1, -1))
        for i in self._stages:
            tokens = self.projections[str(i)](maps[i].permute(0, 2, 3, 1))
            parts.append(to_regions(tokens, 1 << (3 - i), by_columns=i == 2))
        return torch.cat(parts, 2), grid

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        tokens, grid = self.embed(x)
        net, count = self.transformer, self.spec["num_scales"]
        only_last = self.out_indices == (count - 1,)
        tokens = net.attend_scales(tokens, only_last and net.pools_first)
        outputs = []
        for i in self.out_indices:
            if i < count - 1:
                side = 1 << (count - 1 - i)
                start = (self.scale_token is not None) + sum(4**k for k in range(count - 1 - i))
                own = tokens[:, :, start : start + side**2]
                outputs.append(from_regions(own, grid, side, by_columns=side == 2))
                continue
            y = net.pool_regions(tokens)
            if net.cls_token is not None:
                y = net.attend_patches(y, grid)[:, 1:]
            outputs.append(y.mT.unflatten(2, grid))
        return tuple(outputs)

    def forward_features(self, x: Tensor) -> Tensor:
        """The class token and the regions, (B, 1 + R, C); without patch attention a map of the regions,
        (B, C, rows, columns).
        """
        return self.transformer(*self.embed(x))

    # ------------------------------------------------------------------------------- classifier and weights

    def make_head(self, num_classes: int) -> ClassificationHead:
        dims, legacy = self.num_features, self.spec["design"] == "scaleformer"
        if not self.patch_attn:
            return RegionHead(dims, num_classes, self.transformer.grid)
        return DuoHead(dims, num_classes, legacy, legacy and self.reference_quirks)

    @classmethod
    def classifier_options(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        return {"out_indices": (cls.find_arch(arch)["num_scales"] - 1,)}

    def _frozen_modules(self) -> Sequence[nn.Module]:
        return [self.trunk] if self.freeze_backbone and not self.reference_quirks else []

    def train(self, mode: bool = True):
        super().train(mode)
        if self.freeze_backbone:
            self.trunk.requires_grad_(False)
        return self

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        shown = [key for key in state_dict if key.startswith("backbone.transformer.")]
        normed = any(key.endswith(".q_norm.weight") for key in shown)
        patched = "backbone.transformer.cls_token" in shown
        found = cls.drop_defaults(qk_norm=normed, patch_attn=patched)
        if any(key.endswith(".ls1.gamma") for key in shown) and "head.norm.weight" not in state_dict:
            found["layer_scale_init"] = 1e-5
        return found

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """A variant with the ResNet, the scales, their token, the depth and the grid that weights have."""
        start, inner = "backbone.trunk.", "backbone.transformer."
        trunk = {f"backbone.{key.removeprefix(start)}" for key in state_dict if key.startswith(start)}
        deep = any(".conv3." in key for key in trunk)
        depths = ResNet.adapt_arch({"depths": (1,) * 4}, trunk)["depths"]
        names = (
            name
            for name, known in ResNet.archs.items()
            if known["depths"] == depths and (known["expansion"] == 4) == deep
        )
        token = spec["scale_token"]
        if "backbone.scale_token" in state_dict:
            token = "random"
        elif any(key.startswith("backbone.scale_token.") for key in state_dict):
            token = "channel"
        elif token not in ("first", "average"):
            token = "first"
        table = state_dict.get(f"{inner}pos_embed")
        if table is None and "head.regions.weight" in state_dict:
            side = isqrt(state_dict["head.regions.weight"].shape[1])
        else:
            side = spec["img_size"] // STRIDE if table is None else isqrt(table.shape[1] - 1)
        found = (re.match(rf"{inner}scale_blocks\.(\d+)\.", key) for key in state_dict)
        depth = 1 + max((int(match[1]) for match in found if match), default=-1)
        norm = state_dict.get(f"{inner}patch_blocks.0.q_norm.weight")
        # weights without norms do not show it: 12, but in the published network of 8 blocks
        heads = (8 if depth == 8 else 12) if norm is None else spec["embed_dims"] // len(norm)
        return {
            **spec,
            "backbone": next(names, spec["backbone"]),
            "num_scales": sum(
                key.startswith("backbone.projections.") and key.endswith("weight") for key in state_dict
            ),
            "scale_token": token,
            "depth": depth,
            "num_heads": heads,
            "img_size": side * STRIDE,
            "design": "scaleformer" if "head.norm.weight" in state_dict else "duoformer",
        }

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state, trunk = {}, {}
        for key, value in state_dict.items():
            if not key.startswith("resnet_projector."):
                state[key] = value
                continue
            first, _, rest = key.removeprefix("resnet_projector.").partition(".")
            if first != "fc":
                trunk[f"{TRUNK.get(first, first)}.{rest}"] = value
        trunk = {
            key.replace("backbone.", "backbone.trunk.", 1): value
            for key, value in ResNet.convert_official(trunk).items()
        }
        return {**trunk, **convert_transformer(state)}


def convert_transformer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights of all but the ResNet, named as those of a classifier with a :class:`DuoFormer`."""
    legacy = any(".attn.qkv1." in key for key in state)
    inner, ours = r"vision_transformer\.", "backbone.transformer."
    scale, patch = ours + r"scale_blocks.\1.", ours + r"patch_blocks.\1."
    if legacy:
        blocks = [
            (inner + r"patch_embed\..*", None),  # of the class that it derives from
            (inner + r"blocks\.(\d+)\.attn\.[qk]_norm\..*", None),  # made, never called
            (inner + r"blocks\.(\d+)\.attn\.(qkv|proj)1\.(.*)", scale + r"attn.\2.\3"),
            (inner + r"blocks\.(\d+)\.attn\.(qkv|proj)\.(.*)", patch + r"\2.\3"),
            (inner + r"blocks\.(\d+)\.(.*)", scale + r"\2"),
            (inner + r"norm\.(.*)", r"head.norm.\1"),
        ]
    else:
        blocks = [
            (inner + r"scaleBlocks\.\d+\.attn\.[qk]_norm\..*", None),  # made, never called
            (inner + r"fc_norm\..*", None),  # called, its result thrown away
            (inner + r"scaleBlocks\.(\d+)\.(.*)", scale + r"\2"),
            (inner + r"blocks\.(\d+)\.attn\.(.*)", patch + r"\2"),
            (inner + r"fc\.(.*)", r"head.regions.\1"),
        ]
    token = "backbone.scale_token."
    renamed = rename_keys(
        state,
        [
            *blocks,
            (inner + r"pos_embed_for_scale", ours + "scale_embed"),
            (inner + r"(cls_token|pos_embed)", ours + r"\1"),
            (inner + r"head\.(.*)", r"head.fc.\1"),
            (r"channel_token", "backbone.scale_token"),
            (r"chann_proj1\.conv1\.(.*)", token + r"first.0.\1"),
            (r"chann_proj1\.conv2\.(.*)", token + r"first.1.\1"),
            (r"chann_proj2\.conv1\.(.*)", token + r"second.\1"),
            (r"chann_proj_all\.nConvs\.(\d)\.(conv|norm)\.(.*)", token + r"mix.\1.\2.\3"),
            (r"projection\.proj_heads(\d)\.(.*)", r"backbone.projections.\1.\2"),
        ],
    )
    return {
        key: value.flatten(1) if ".projections." in key and key.endswith("weight") else value
        for key, value in renamed.items()
    }


def to_regions(x: Tensor, side: int, by_columns: bool = False) -> Tensor:
    """A map (B, H, W, C) as squares of ``side`` pixels, row by row: (B, R, side * side, C).

    Args:
        by_columns: the pixels of a square go column by column, else row by row.
    """
    x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))  # (B, rows, side, columns, side, C)
    x = x.permute(0, 1, 3, 4, 2, 5) if by_columns else x.transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)


def from_regions(x: Tensor, grid: Grid, side: int, by_columns: bool = False) -> Tensor:
    """What :func:`to_regions` made, (B, R, side * side, C), as a map (B, C, H, W)."""
    x = x.unflatten(2, (side, side)).unflatten(1, grid)
    x = x.permute(0, 5, 1, 4, 2, 3) if by_columns else x.permute(0, 5, 1, 3, 2, 4)
    return x.flatten(4, 5).flatten(2, 3)
