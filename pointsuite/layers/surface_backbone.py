"""What RISurConv's networks share: the geometry of every layer, and the layers down.

Source: Zhang, Yang, Xiang, "RISurConv", ECCV 2024.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pointsuite.ops import knn, surface_features

from .levels import sample_levels
from .surface_conv import SurfaceConv

MANY = 1024  # centres of a layer, from which on it compares neighbours two slots apart


class SurfaceGeometry(NamedTuple):
    """What one layer needs of the coordinates."""

    features: Tensor  # (B, S, K, 14)
    idx: Tensor  # (B, S, K) int64, neighbours among the layer's input points, in angular order


def find_neighbours(query: Tensor, points: Tensor, k: int, order: str = "sorted") -> Tensor:
    """Indices (B, S, k) of the k nearest points, in an order of :mod:`pointsuite.models.risurconv`."""
    if order == "torch":  # the expanded form and top-k of the published code
        distance = (query**2).sum(-1, keepdim=True) + (points**2).sum(-1)[:, None]
        distance = distance - 2 * query @ points.transpose(1, 2)
        return distance.topk(k, dim=-1, largest=False, sorted=False).indices
    idx, _ = knn(query, points, k)
    if order == "index":  # all but the farthest by index, then the farthest
        idx = torch.cat([idx[..., :-1].sort(-1).values, idx[..., -1:]], -1)
    return idx


class SurfaceBackbone(nn.Module):
    """The set abstraction layers of RISurConv's networks: geometry, and features of every layer.

    Args:
        centres, neighbours, channels: one entry a layer; a layer's centres are the first ones of the
            previous layer's, in the order of farthest point sampling.
        embed_channels: width of the embedded surface features.
        neighbour_order, reference_sign: see :mod:`pointsuite.models.risurconv`.

    Raises:
        ValueError: layers that do not fit together.
    """

    def __init__(
        self,
        centres: tuple[int, ...],
        neighbours: tuple[int, ...],
        channels: tuple[int, ...],
        embed_channels: int,
        neighbour_order: str,
        reference_sign: str,
    ):
        super().__init__()
        if not len(centres) == len(neighbours) == len(channels):
            raise ValueError(
                "centres, neighbours and channels must have one entry a layer, "
                f"found {len(centres)}, {len(neighbours)} and {len(channels)}"
            )
        sources = [None, *centres]
        for i, (source, count, k) in enumerate(zip(sources, centres, neighbours, strict=False)):
            if source is not None and (count > source or k > source):
                raise ValueError(
                    f"layer {i} wants {count} centres of {k} neighbours, but has {source} points"
                )
        self.centres, self.neighbours = tuple(centres), tuple(neighbours)
        self.neighbour_order, self.reference_sign = neighbour_order, reference_sign
        self.layers = nn.ModuleList(
            SurfaceConv(before, after, embed_channels)
            for before, after in zip([0, *channels], channels, strict=False)
        )

    @torch.no_grad()
    def geometry(self, points: Tensor) -> tuple[list[SurfaceGeometry], list[tuple[Tensor, Tensor]]]:
        """Geometry of every layer for points (B, N, 6), and the levels of :func:`~.levels.sample_levels`.

        Raises:
            ValueError: points of the wrong shape, too few of them, NaN or infinity.
        """
        levels = sample_levels(*self.check(points).split(3, -1), self.centres)
        stages = zip(levels[1:], levels, self.neighbours, strict=False)
        return [self.relate(centres, others, k) for centres, others, k in stages], levels

    def check(self, points: Tensor) -> Tensor:
        """Points in float32 at least: coordinates do not survive 16 bits."""
        if points.ndim != 3 or points.shape[-1] != 6:
            raise ValueError(
                f"points must have shape (B, N, 6), xyz and unit normal, found {tuple(points.shape)}"
            )
        if points.shape[1] < self.centres[0]:
            raise ValueError(
                f"this network samples {self.centres[0]} points of each cloud, found {points.shape[1]} points"
            )
        return points.to(torch.promote_types(points.dtype, torch.float32))

    def relate(
        self,
        centres: tuple[Tensor, Tensor],
        others: tuple[Tensor, Tensor],
        k: int,
        rounding: str = "abstraction",
    ) -> SurfaceGeometry:
        """Geometry between centres and the k nearest of other points, each with its normals.

        Args:
            rounding: see :func:`pointsuite.ops.surface_features`.
        """
        idx = find_neighbours(centres[0], others[0], k, self.neighbour_order)
        shift = 2 if centres[0].shape[1] >= MANY else 1
        options = {"shift": shift, "reference_sign": self.reference_sign, "rounding": rounding}
        return SurfaceGeometry(*surface_features(*centres, *others, idx, **options))

    def forward(self, stages: list[SurfaceGeometry]) -> list[Tensor]:
        """Values (B, S_i, C_i) of every layer's centres."""
        outputs, values = [], None
        for layer, stage in zip(self.layers, stages, strict=True):
            values = layer(*stage, values)
            outputs.append(values)
        return outputs
