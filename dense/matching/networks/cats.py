"""CATs: cost aggregation with transformers, for semantic matching.

Cho, Hong, Jeon, Lee, Sohn, Kim, "CATs: Cost Aggregation Transformers for Visual Correspondence", NeurIPS
2021, arXiv 2106.02520. Published code: SunghwanHong/Cost-Aggregation-transformers, GPL-3.0; this is an
independent implementation of its mathematics.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import CheckpointError, rename_keys
from pointsuite.engine.network import Network

from ...layers import MLP, LayerNorm, Linear, init_normal
from ...registry import MODELS, ZOO
from ..cost_volume import BETA, correlate, mutual_filter, read_flow, select_flows
from .backbone import BlockFeatures
from .base import PairNetwork

RESNET101_BLOCKS = (0, 8, 20, 21, 26, 28, 29, 30)


class Attention(nn.Module):
    """Multi-head self-attention: (B, N, C) to the same."""

    def __init__(self, embed_dims: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(embed_dims, 3 * embed_dims)
        self.proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, N, d)
        return self.proj(F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Positions attend within each level, then levels at each position: (B, L, N, C) to the same.

    Args:
        embed_dims: C.
        num_heads: which divides C.
        mlp_ratio: hidden width by C.
        multiscale: attend among levels, too.
    """

    def __init__(self, embed_dims: int, num_heads: int, mlp_ratio: int, multiscale: bool):
        super().__init__()
        self.multiscale = multiscale
        hidden = mlp_ratio * embed_dims
        self.norm1 = LayerNorm(embed_dims)
        self.attn = Attention(embed_dims, num_heads)
        if multiscale:
            self.norm4 = LayerNorm(embed_dims)
            self.mlp2 = MLP(embed_dims, hidden)
            self.norm3 = LayerNorm(embed_dims)
            self.attn_multiscale = Attention(embed_dims, num_heads)
        self.norm2 = LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, hidden)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[:2]
        x = x + self.attn(self.norm1(x).flatten(0, 1)).unflatten(0, batch)
        if self.multiscale:
            x = x + self.mlp2(self.norm4(x))
            y = self.norm3(x).transpose(1, 2)  # (B, N, L, C)
            y = self.attn_multiscale(y.flatten(0, 1)).unflatten(0, y.shape[:2])
            x = x + y.transpose(1, 2)
        return x + self.mlp(self.norm2(x))


class Aggregator(nn.Module):
    """Refine the correlations of several levels of features together, seen from the target, then the source.

    Args:
        num_levels: L; with a single one there is no attention among levels.
        grid: side of the grid, N = grid^2.
        proj_dims: P, channels of a position's features; grid^2 + P is even and a multiple of num_heads.
        depth: blocks.
        num_heads: of attention.
        mlp_ratio: hidden width of MLPs by the width of tokens.
    """

    def __init__(
        self,
        num_levels: int,
        grid: int = 16,
        proj_dims: int = 128,
        depth: int = 1,
        num_heads: int = 6,
        mlp_ratio: int = 4,
    ):
        super().__init__()
        dims = grid**2 + proj_dims
        if dims % 2 or dims % num_heads:
            raise ValueError(
                f"grid^2 + proj_dims must be even and a multiple of the {num_heads} heads, found {dims}"
            )
        self.num_levels = num_levels
        self.pos_embed_x = nn.Parameter(torch.zeros(1, num_levels, 1, grid, dims // 2))
        self.pos_embed_y = nn.Parameter(torch.zeros(1, num_levels, grid, 1, dims // 2))
        for code in (self.pos_embed_x, self.pos_embed_y):
            nn.init.trunc_normal_(code, std=0.02)
        self.blocks = nn.Sequential(
            *[Block(dims, num_heads, mlp_ratio, num_levels > 1) for _ in range(depth)]
        )
        self.proj = Linear(dims, grid**2)
        init_normal(self, nn.Linear)

    def forward(self, correlation: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Correlations (B, L, N_s, N_t) and features (B, L, N, P) to a correlation (B, N_s, N_t)."""
        x = correlation + self.refine(correlation.mT, target).mT
        x = correlation + self.refine(x, source)  # the first correlation once more, as published
        return x.mean(1)

    def refine(self, rows: Tensor, features: Tensor) -> Tensor:
        tokens = torch.cat([rows, features], -1)
        grid = self.pos_embed_x.shape[3]
        code = torch.cat(
            [self.pos_embed_x.expand(-1, -1, grid, -1, -1), self.pos_embed_y.expand(-1, -1, -1, grid, -1)], -1
        )
        return self.proj(self.blocks(tokens + code.flatten(2, 3)))

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' weights but those never used: a norm and, if L is 1, what is between levels."""
        names = ["norm"]
        if state_dict["pos_embed_x"].shape[1] == 1:
            names += ["attn_multiscale", "norm3", "norm4", "mlp2"]
        unused = rf"(.*\.)?({'|'.join(names)})\..*"
        return rename_keys(state_dict, [(unused, None), (r".*", r"\g<0>")])


@ZOO.register_network("cats", MODELS)
class CATs(PairNetwork, Network):
    """CATs: two images (B, 3, H, W) of any size to a list of one flow (B, 2, grid, grid).

    Args:
        backbone: a ResNet; see :class:`~dense.matching.networks.backbone.BlockFeatures`.
        blocks: whose maps are matched; the published ones of ResNet-101.
        grid, proj_dims, depth, num_heads, mlp_ratio: of :class:`Aggregator`.
        frozen: keep the backbone as it is.
        beta: temperature of the read-out.
        learned_grid: learn the coordinates of the grid, too, from -1 to 1 in even steps at first. The
            published code does, by mistake: flows are then no longer in cells.
    """

    paper = (
        'Cho, Hong, Jeon, Lee, Sohn, Kim, "CATs: Cost Aggregation Transformers for Visual Correspondence", '
        "NeurIPS 2021, arXiv 2106.02520"
    )
    code = "SunghwanHong/Cost-Aggregation-transformers"
    licence = "GPL-3.0"
    archs = {
        "r101": {
            "backbone": {"type": "mmdet.ResNet", "depth": 101},
            "blocks": RESNET101_BLOCKS,
            "grid": 16,
            "proj_dims": 128,
            "depth": 1,
            "num_heads": 6,
            "mlp_ratio": 4,
        }
    }
    num_parameters = {"r101": 32_158_784}
    published = {  # the backbone tuned, too
        "r101": {"PCK@0.1 of SPair-71k": 49.9, "PCK@0.1 of PF-PASCAL": 92.6, "PCK@0.1 of PF-WILLOW": 79.2}
    }
    exempt = {
        "bfloat16": "flows are a softmax of temperature 0.02 over cosines, rounded by up to 0.004",
        "packs": "they lie with those of UFC",
    }

    @classmethod
    def create(cls, arch: str | Mapping[str, Any], **options) -> nn.Module:
        return cls(**cls.find_arch(arch), **options)

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        small = {"blocks": (0, 3, 5), "grid": 4, "proj_dims": 8, "num_heads": 4}
        backbone = {**cls.archs["r101"]["backbone"], "depth": 18}
        return cls.create({**cls.archs["r101"], "backbone": backbone, **small}, **options)

    def __init__(
        self,
        backbone: dict | nn.Module,
        blocks: Sequence[int] = RESNET101_BLOCKS,
        *,
        grid: int = 16,
        proj_dims: int = 128,
        depth: int = 1,
        num_heads: int = 6,
        mlp_ratio: int = 4,
        frozen: bool = True,
        beta: float = BETA,
        learned_grid: bool = False,
    ):
        super().__init__()
        self.grid, self.beta, self.learned_grid = grid, beta, learned_grid
        self.features = BlockFeatures(backbone, blocks, frozen)
        channels = self.features.out_channels
        self.proj = nn.ModuleList(Linear(c, proj_dims) for c in channels)
        init_normal(self.proj, nn.Linear)
        self.aggregator = Aggregator(len(channels), grid, proj_dims, depth, num_heads, mlp_ratio)
        if learned_grid:
            self.x_normal = nn.Parameter(torch.linspace(-1, 1, grid))
            self.y_normal = nn.Parameter(torch.linspace(-1, 1, grid))
        # of an instance: for its own options
        self.convert_official = partial(
            type(self).convert_official, blocks=tuple(blocks), learned_grid=learned_grid
        )

    def forward(self, source: Tensor, target: Tensor) -> list[Tensor]:
        """The flow on the target's grid, pointing to the source, x and y in cells, float32."""
        return [self.read_flow(self.correlate(source, target).mT)]

    @torch.no_grad()
    def match(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The flow (B, 2, grid, grid), and (B, grid, grid) how well the flow back confirms it."""
        correlation = self.correlate(source, target)
        flow, confidence = select_flows([self.read_flow(correlation.mT)], [self.read_flow(correlation)])
        return flow, confidence[:, 0]

    def correlate(self, source: Tensor, target: Tensor) -> Tensor:
        """The refined correlation (B, N_s, N_t) of two images, N = grid^2."""
        self.check_pair(source, target)
        correlations, sources, targets = [], [], []
        for maps, proj in zip(self.features(torch.cat([source, target])), self.proj, strict=True):
            maps = F.interpolate(maps, (self.grid, self.grid), mode="bilinear", align_corners=True)
            features = maps.flatten(2).mT  # (2 B, N, C)
            correlations.append(correlate(*features.chunk(2), smooth=True))
            for found, x in zip((sources, targets), proj(features).chunk(2), strict=True):
                found.append(x)
        correlation = mutual_filter(torch.stack(correlations, 1))
        return self.aggregator(correlation, torch.stack(sources, 1), torch.stack(targets, 1))

    def read_flow(self, rows: Tensor) -> Tensor:
        """The flow (B, 2, grid, grid) by rows (B, N, N) of scores, at least float32."""
        axes = (self.x_normal, self.y_normal) if self.learned_grid else None
        size = (self.grid, self.grid)
        with torch.autocast(rows.device.type, enabled=False):
            rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
            return read_flow(rows, size, beta=self.beta, axes=axes).mT.unflatten(2, size)

    @classmethod
    def convert_official(
        cls,
        state_dict: Mapping[str, Tensor],
        blocks: Sequence[int] = RESNET101_BLOCKS,
        learned_grid: bool = False,
    ) -> dict[str, Tensor]:
        """The authors' weights of the whole network; what it never used is left out.

        That is the last norm, the classifier and last blocks of the backbone, the attention among levels if
        there is only one, and, unless ``learned_grid``, the coordinates of the grid.

        Args:
            blocks, learned_grid: of the network that the weights are for; called on a network, its own.
        """
        inner = {k.removeprefix("decoder."): v for k, v in state_dict.items() if k.startswith("decoder.")}
        if "pos_embed_x" not in inner:
            raise CheckpointError("no key decoder.pos_embed_x, which CATs has")
        outer = rename_keys(
            {k: v for k, v in state_dict.items() if not k.startswith("decoder.")},
            [
                (r"feature_extraction\.backbone\.fc\..*", None),
                (r"feature_extraction\.(backbone\..*)", r"features.\1"),
                (r"[xy]_normal", r"\g<0>" if learned_grid else None),
                (r"proj\..*", r"\g<0>"),
            ],
        )
        places = sorted(set(filter(None, map(_find_block, outer))))
        used = {k: v for k, v in outer.items() if _find_block(k) not in places[max(blocks) :]}
        return used | {f"aggregator.{k}": v for k, v in Aggregator.convert_official(inner).items()}

    @classmethod
    def guess_options(
        cls, state_dict: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        """The published variant only: which blocks' maps weights are for cannot be seen in them.

        Nor is it said whether to learn the grid, which published weights have always: they go without.
        """
        yield "r101", {}, dict(state_dict)


def _find_block(key: str) -> tuple[int, int] | None:
    """Stage and place in it of the backbone's block that a weight is of."""
    match = re.match(r"features\.backbone\.layer(\d+)\.(\d+)\.", key)
    return match and (int(match[1]), int(match[2]))
