"""UFC: feature and cost aggregation in one transformer, for semantic and geometric dense matching.

Hong, Cho, Kim, Lin, "Unifying Feature and Cost Aggregation with Transformers for Semantic and Visual
Correspondence", ICLR 2024, arXiv 2403.11120. Published is a repository without code (KU-CVLAB/UFC): the plan
is the paper's, what it leaves open is chosen here; configs/ufc/README.md says which is which.

The correlation of N x N positions is nowhere kept. Its pooling is the correlation with pooled features;
attention of a position with all others, which the pooled correlation biases, and the flow, which is a softmax
over them, are computed for some rows at a time, anew for the gradient.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.network import Network

from ...layers import MLP, Linear, init_normal, run_block
from ...ops import padded_attention
from ...ops.chunks import map_chunks
from ...registry import MODELS, ZOO
from ..cost_volume import BETA, normalize, pool_rows, read_flow, select_flows, upsample_rows
from ..crops import corner_crops
from .backbone import build_backbone, probe_backbone
from .base import PairNetwork

# Both images of B pairs travel as one batch of 2 B, all sources before all targets.


def swap(pair: Tensor) -> Tensor:
    """Of each image of (2 B, ...) the other one."""
    return pair.roll(len(pair) // 2, 0)


class IntegrativeSelfAttention(nn.Module):
    """Positions of an image attend to each other by feature and cost, and pass on both.

    Args:
        embed_dims: of features.
        cost_dims: cost tokens of a position.
        attention_dims: of queries and keys.
        num_heads: each has an equal part of queries, keys, features and costs. Cost channels beyond a
            multiple of it are not attended.
    """

    def __init__(self, embed_dims: int, cost_dims: int, attention_dims: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm_d = nn.LayerNorm(embed_dims)
        self.norm_c = nn.LayerNorm(cost_dims)
        self.q = Linear(embed_dims + cost_dims, attention_dims)
        self.k = Linear(embed_dims + cost_dims, attention_dims)
        self.v_d = Linear(embed_dims, embed_dims)
        self.v_c = Linear(cost_dims, cost_dims)
        self.o_d = Linear(embed_dims, embed_dims)
        self.o_c = Linear(cost_dims, cost_dims)
        self.norm_d2 = nn.LayerNorm(embed_dims)
        self.norm_c2 = nn.LayerNorm(cost_dims)
        self.ffn_d = MLP(embed_dims, 4 * embed_dims)
        self.ffn_c = MLP(cost_dims, 4 * cost_dims)

    def forward(self, features: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, embed_dims) and (B, N, cost_dims) to the same."""
        d, c = self.norm_d(features), self.norm_c(cost)
        both = torch.cat([d, c], -1)
        q, k, v_d, v_c = (
            split_heads(x, self.num_heads) for x in (self.q(both), self.k(both), self.v_d(d), self.v_c(c))
        )
        y = padded_attention(q, k, torch.cat([v_d, v_c], -1))
        y_d, y_c = y.split([v_d.shape[-1], v_c.shape[-1]], -1)
        features = features + self.o_d(merge_heads(y_d, d.shape[-1]))
        cost = cost + self.o_c(merge_heads(y_c, c.shape[-1]))
        return features + self.ffn_d(self.norm_d2(features)), cost + self.ffn_c(self.norm_c2(cost))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) to equal parts (B, heads, N, C // heads); channels left over are in none."""
    width = x.shape[-1] // heads
    return x[..., : heads * width].unflatten(-1, (heads, width)).transpose(1, 2)


def merge_heads(x: Tensor, channels: int) -> Tensor:
    """What :func:`split_heads` made of (B, N, channels), back; channels left over are 0."""
    x = x.transpose(1, 2).flatten(2)
    return F.pad(x, (0, channels - x.shape[-1])) if x.shape[-1] < channels else x


class IntegrativeCrossAttention(nn.Module):
    """Positions attend to those of the other image by feature and, ``tau`` times, by cost.

    Args:
        embed_dims: of features.
        num_heads: which divides embed_dims.
    """

    def __init__(self, embed_dims: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(embed_dims)
        self.q = Linear(embed_dims, embed_dims)
        self.k = Linear(embed_dims, embed_dims)
        self.v = Linear(embed_dims, embed_dims)
        self.o = Linear(embed_dims, embed_dims)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.ffn = MLP(embed_dims, 4 * embed_dims)
        self.tau = nn.Parameter(torch.ones(1))

    def forward(self, features: Tensor, cost: Tensor, size: tuple[int, int]) -> Tensor:
        """(2 B, H * W, embed_dims) and (2 B, H * W, cost_dims), images of size (H, W), to features again."""
        y = self.norm(features)
        q, k, v = (split_heads(layer(y), self.num_heads) for layer in (self.q, self.k, self.v))
        k, v = swap(k), swap(v)

        def attend_rows(rows: slice) -> Tensor:
            bias = (self.tau * upsample_rows(cost[:, rows], size)).to(q.dtype)
            return F.scaled_dot_product_attention(q[:, :, rows], k, v, attn_mask=bias[:, None])

        positions = features.shape[1]
        y = map_chunks(attend_rows, positions, positions, dim=2)
        features = features + self.o(merge_heads(y, features.shape[-1]))
        return features + self.ffn(self.norm2(features))


class IntegrativeBlock(nn.Module):
    """Self- then cross-attention: features (2 B, N, embed_dims) and cost (2 B, N, cost_dims) to the same.

    Args:
        as of :class:`IntegrativeSelfAttention`.
    """

    def __init__(self, embed_dims: int, cost_dims: int, attention_dims: int, num_heads: int):
        super().__init__()
        for name, dims in (("embed_dims", embed_dims), ("attention_dims", attention_dims)):
            if dims % num_heads:
                raise ValueError(f"{name} must be a multiple of the {num_heads} heads, found {dims}")
        self.isa = IntegrativeSelfAttention(embed_dims, cost_dims, attention_dims, num_heads)
        self.ica = IntegrativeCrossAttention(embed_dims, num_heads)

    def forward(self, features: Tensor, cost: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        features, cost = self.isa(features, cost)
        return self.ica(features, cost, size), cost


def cost_tokens(features: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Cosines of (2 B, H * W, C) with the other image, pooled to side x side parts: (2 B, H * W, side^2)."""
    features = normalize(features)
    return features @ swap(pool_rows(features, size, side)).mT


class Level(NamedTuple):
    """What a level knows of both images: features (2 B, H * W, C), cost tokens (2 B, H * W, M), (H, W)."""

    features: Tensor
    cost: Tensor
    size: tuple[int, int]

    def read_flow(self, image: str = "target", beta: float = BETA) -> Tensor:
        """The flow (B, 2, H, W) of the source or target to the other image, at least float32.

        Scores are the cosine and the mean of the cost tokens of both sides, upsampled.
        """
        dtype = torch.promote_types(self.features.dtype, torch.float32)
        half = slice(len(self.features) // 2, None) if image == "target" else slice(len(self.features) // 2)
        with torch.autocast(self.features.device.type, enabled=False):
            features, cost = normalize(self.features.to(dtype)), self.cost.to(dtype)
            own = features[half], cost[half]
            other = torch.cat([swap(features)[half], swap(cost)[half] / 2], -1)
            # all positions of the map by their shares in the tokens: U(C) is C times its transpose
            tokens = torch.eye(cost.shape[-1], dtype=dtype, device=cost.device)[None]
            shares = upsample_rows(tokens, self.size).mT.expand(len(other), -1, -1)  # (B, H * W, M)

            def read_rows(rows: slice) -> Tensor:
                scores = torch.cat([own[0][:, rows], shares[:, rows]], -1) @ other.mT
                scores = scores + upsample_rows(own[1][:, rows], self.size) / 2
                return read_flow(scores, self.size, rows, beta=beta)

            positions = features.shape[1]
            return map_chunks(read_rows, positions, positions).mT.unflatten(2, self.size)


def resize_positions(x: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Channels (B, H * W, C) of a map of the size ``old``, bilinearly on one of the size ``new``."""
    maps = x.mT.unflatten(2, old)
    return F.interpolate(maps, new, mode="bilinear", align_corners=False).flatten(2).mT


def position_code(size: tuple[int, int], embed_dims: int, like: Tensor) -> Tensor:
    """Sines and cosines of the column, then of the row, in cells: (H * W, embed_dims)."""
    count = embed_dims // 4
    rates = 10000.0 ** (-torch.arange(count, dtype=torch.float32, device=like.device) / count)
    rows, columns = (torch.arange(n, device=like.device)[:, None] * rates for n in size)
    rows, columns = (torch.cat([angles.sin(), angles.cos()], 1) for angles in (rows, columns))
    code = torch.cat(
        [columns.expand(len(rows), -1, -1), rows[:, None].expand(-1, len(columns), -1)], -1
    )  # (H, W, embed_dims)
    return code.flatten(0, 1).to(like.dtype)


@ZOO.register_network("ufc", MODELS)
class UFC(PairNetwork, Network):
    """UFC: two images (B, 3, H, W) to flows, coarse to fine, each (B, 2, h, w), a map of the backbone each.

    Args:
        backbone: a module, or the config of one, that maps images to a tuple of maps, coarse last, as
            ``dict(type="mmdet.ResNet", depth=101, out_indices=(1, 2, 3))`` or ``dict(type="dense.SHViT")``.
        embed_dims: of features; a multiple of 4 and of num_heads.
        attention_dims: of queries and keys of self-attention; a multiple of num_heads.
        num_heads: of all attention.
        cost_side: cost tokens of a position, along each axis of the other image.
        depths: blocks of each level, coarse to fine; one number for all.
        beta: temperature of the read-out.
        zoom: predict also from four crops of the images, enlarged, of this share of the sides (above 0.5
            they overlap); None for whole images only.
        with_cp: save memory in training: keep only the inputs of blocks, and compute the rest anew.

    Attributes:
        multiple: what divides the sides of images: the coarsest stride of the backbone.

    Raises:
        ValueError: numbers that do not fit, or images of unequal or impossible sizes.
    """

    paper = (
        'Hong, Cho, Kim, Lin, "Unifying Feature and Cost Aggregation with Transformers for Semantic and '
        'Visual Correspondence", ICLR 2024, arXiv 2403.11120'
    )
    archs = {
        "r101": {
            "backbone": {"type": "mmdet.ResNet", "depth": 101, "out_indices": (1, 2, 3)},
            "embed_dims": 256,
            "attention_dims": 256,
            "num_heads": 8,
            "cost_side": 16,
            "depths": (2, 2, 2),
        }
    }
    num_parameters = {"r101": 57_631_046}
    exempt = {"bfloat16": "flows are a softmax of temperature 0.02 over cosines, rounded by up to 0.004"}

    @classmethod
    def create(cls, arch: str | Mapping[str, Any], **options) -> nn.Module:
        return cls(**cls.find_arch(arch), **options)

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        trunk = {"embed_dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
        backbone = {
            "type": "dense.DaViT",
            "arch": {**trunk, "window_size": 7, "overlapped_patch": False},
            "out_indices": (1, 2, 3),
        }
        small = {"embed_dims": 32, "attention_dims": 32, "num_heads": 2, "cost_side": 4, "depths": (1, 1, 1)}
        return cls.create({"backbone": backbone, **small}, **options)

    def __init__(
        self,
        backbone: dict | nn.Module,
        *,
        embed_dims: int = 256,
        attention_dims: int = 256,
        num_heads: int = 8,
        cost_side: int = 16,
        depths: int | Sequence[int] = 2,
        beta: float = BETA,
        zoom: float | None = None,
        with_cp: bool = False,
    ):
        super().__init__()
        if embed_dims % 4:
            raise ValueError(f"embed_dims must be a multiple of 4, found {embed_dims}")
        if zoom is not None and not 0.5 <= zoom < 1:
            raise ValueError(f"zoom must be at least 0.5 and below 1, found {zoom}")
        self.backbone = build_backbone(backbone)
        channels, strides = probe_backbone(self.backbone)
        self.multiple = max(strides)
        depths = [depths] * len(channels) if isinstance(depths, int) else list(depths)
        if len(depths) != len(channels) or min(depths) < 1:
            raise ValueError(
                f"depths must be positive, one for each of the {len(channels)} maps, found {depths}"
            )
        self.embed_dims, self.cost_side = embed_dims, cost_side
        self.beta, self.zoom, self.with_cp = beta, zoom, with_cp
        self.projections = nn.ModuleList(Linear(c, embed_dims) for c in reversed(channels))
        self.levels = nn.ModuleList(
            nn.ModuleList(
                IntegrativeBlock(embed_dims, cost_side**2, attention_dims, num_heads) for _ in range(depth)
            )
            for depth in depths
        )
        init_normal(self.levels, nn.Linear)
        for projection in self.projections:  # keeps lengths and, nearly, cosines
            init_normal(projection, nn.Linear, std=projection.in_features**-0.5)

    def forward(self, source: Tensor, target: Tensor) -> list[Tensor]:
        """Flows on the target's grids, pointing to the source, x and y in cells, float32, coarse to fine."""
        return [level.read_flow(beta=self.beta) for level in self.aggregate(source, target)]

    @torch.no_grad()
    def match(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The flow (B, 2, h, w) that is trusted most, on the finest grid, and its confidence (B, h, w)."""
        whole = self.aggregate(source, target)
        flows = [level.read_flow(beta=self.beta) for level in whole]
        backward = [level.read_flow("source", self.beta) for level in whole]
        inside: list[Tensor | None] = [None] * len(whole)
        finest = whole[-1].size
        for crop in corner_crops(source.shape[2:], self.zoom) if self.zoom else ():
            covered = crop.covers(finest, flows[0])
            for level in self.aggregate(crop.apply(source), crop.apply(target)):
                flows.append(crop.widen_flow(level.read_flow(beta=self.beta), finest))
                backward.append(crop.widen_flow(level.read_flow("source", self.beta), finest))
                inside.append(covered)
        flow, confidence = select_flows(flows, backward, inside)
        return flow, confidence.amax(1)

    def aggregate(self, source: Tensor, target: Tensor) -> list[Level]:
        """Aggregated features and costs of both images, coarse to fine."""
        self.check_pair(source, target)
        maps = self.backbone(torch.cat([source, target]))
        levels: list[Level] = []
        for features, projection, blocks in zip(reversed(maps), self.projections, self.levels, strict=True):
            size = tuple(features.shape[2:])
            x = projection(features.flatten(2).mT)
            if levels:
                x = x + resize_positions(levels[-1].features, levels[-1].size, size)
            cost = cost_tokens(x, size, self.cost_side)
            if levels:
                cost = cost + resize_positions(levels[-1].cost, levels[-1].size, size)
            x = x + position_code(size, self.embed_dims, x)
            for block in blocks:
                x, cost = run_block(block, x, cost, size, with_cp=self.with_cp and self.training)
            levels.append(Level(x, cost, size))
        return levels

    def check_pair(self, source: Tensor, target: Tensor) -> None:
        super().check_pair(source, target)
        if any(side % self.multiple for side in source.shape[2:]):
            raise ValueError(
                f"sides of images must be multiples of {self.multiple}, found {tuple(source.shape[2:])}"
            )
