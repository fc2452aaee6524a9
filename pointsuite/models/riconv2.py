"""RIConv++: convolutions over informative rotation-invariant features.

Paper: Zhang, Hua, Yeung, "RIConv++: Effective Rotation Invariant Convolutions for 3D Point Clouds Deep
Learning", IJCV 2022, arXiv 2202.13094.
Published code: cszyzhang/riconv2, MIT. This is an independent implementation from the paper.

A layer orders the neighbours of a centre by their angle around its normal and describes each by eight
numbers: four between neighbour and centre, four between neighbour and the next in that order. As in
RISurConv, `geometry` computes them without parameters or gradients and `forward_geometry` is the network
proper; the order is that of `pointsuite.ops.surface_features`, and the global layer looks from the centroid
along the direction of least spread, whose sign turns with the cloud.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pointsuite.engine.zoo import ZOO
from pointsuite.layers import ChannelNorm, check_inputs, classification_head, global_frame, mlp, sample_levels
from pointsuite.ops import gather_points, knn, surface_features
from pointsuite.registry import MODELS

from .base import CloudNetwork

NUM_INFORMATIVE_FEATURES = 8


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle between vectors (..., 3) in radians, 0 to pi, accurate near both ends; 0 for a zero vector."""
    a, b = torch.broadcast_tensors(a, b)
    return torch.atan2(torch.linalg.cross(a, b, dim=-1).norm(dim=-1), (a * b).sum(-1))


def relate(x: Tensor, x_normal: Tensor, y: Tensor, y_normal: Tensor) -> Tensor:
    """Four numbers (..., 4) of a point x and its reference y (..., 3), which determine them up to a rotation.

    The distance, the angles of the line from x to y with both normals, and the angle between the normals,
    which is negative where x_normal points away from y: it tells convex from concave.
    """
    line = y - x
    first = angle(x_normal, line)
    between = angle(x_normal, y_normal)
    between = torch.where(first <= torch.pi / 2, between, -between)
    return torch.stack([line.norm(dim=-1), first, angle(y_normal, line), between], -1)


class NeighbourGeometry(NamedTuple):
    """What one layer needs of the coordinates."""

    features: Tensor  # (B, S, K, 8)
    idx: Tensor  # (B, S, K) int64, neighbours among the layer's input points, in angular order


def informative_features(
    centres: Tensor, centre_normals: Tensor, xyz: Tensor, normals: Tensor, idx: Tensor
) -> NeighbourGeometry:
    """Order neighbours (B, S, K) of centres (B, S, 3) among points (B, N, 3) and describe them."""
    _, idx = surface_features(centres, centre_normals, xyz, normals, idx)
    x, x_normal = gather_points(xyz, idx), gather_points(normals, idx)  # (B, S, K, 3)
    to_centre = relate(x, x_normal, centres[:, :, None], centre_normals[:, :, None])
    to_next = relate(x, x_normal, x.roll(-1, 2), x_normal.roll(-1, 2))
    return NeighbourGeometry(torch.cat([to_centre, to_next], -1), idx)


class RIConv2(nn.Module):
    """Embed the features, join what the neighbours carry, one linear map, maximum over the neighbours.

    Args:
        in_channels: of the points' values, 0 for none.
        out_channels: of the centres.
        embed_channels: hidden and last width of the features' embedding.
    """

    def __init__(self, in_channels: int, out_channels: int, embed_channels: tuple[int, ...] = (32, 64)):
        super().__init__()
        self.embedding = mlp(NUM_INFORMATIVE_FEATURES, *embed_channels)
        self.linear = nn.Linear(embed_channels[-1] + in_channels, out_channels, bias=False)
        self.norm = ChannelNorm(out_channels)

    def forward(self, geometry: NeighbourGeometry, values: Tensor | None) -> Tensor:
        """Geometry and values (B, N, in_channels) or None -> (B, S, out_channels)."""
        x = self.embedding(geometry.features.to(self.linear.weight.dtype))
        hidden = linear(x, self.linear.weight[:, : x.shape[-1]])
        if values is not None:  # the linear map runs on the N points instead of their S * K copies
            carried = linear(values, self.linear.weight[:, x.shape[-1] :])
            hidden = hidden + gather_points(carried, geometry.idx)
        return self.norm(hidden).amax(2).relu()


@ZOO.register_network("riconv2", MODELS)
class RIConv2Classifier(CloudNetwork):
    """RIConv++'s classifier: (B, N, 6) points and unit normals -> (B, num_classes) logits.

    Args:
        num_classes: classes.
        width: n: the layers have 512n, 256n, 128n and 64n centres.
        centres: replaces the centres that `width` gives.
        neighbours, channels: of the layers, and the channels of the last, global layer after them.
        embed_channels: hidden and last width of each layer's embedding of the features.
        head_dims, dropout: hidden widths of the classifying head, and the dropout after each.

    Raises:
        ValueError: layers that do not fit together; points of the wrong shape, too few of them, NaN or
            infinity.
    """

    title = "RIConv++"
    folder = "baselines"
    paper = (
        'Zhang, Hua, Yeung, "RIConv++: Effective Rotation Invariant Convolutions for 3D Point Clouds Deep '
        'Learning", IJCV 2022, arXiv 2202.13094'
    )
    code = "cszyzhang/riconv2"
    licence = "MIT"
    archs = {"cls": {}}
    num_parameters = {"cls": 421_800}
    exempt = {
        "packs": "no published run is pinned",
    }

    def __init__(
        self,
        num_classes: int = 40,
        width: int = 2,
        *,
        centres: tuple[int, ...] | None = None,
        neighbours: tuple[int, ...] = (8, 16, 32, 64),
        channels: tuple[int, ...] = (32, 64, 128, 256, 512),
        embed_channels: tuple[int, ...] = (32, 64),
        head_dims: tuple[int, ...] = (256, 128),
        dropout: float = 0.4,
    ):
        super().__init__()
        centres = tuple(width * c for c in (512, 256, 128, 64)) if centres is None else tuple(centres)
        if not len(centres) == len(neighbours) == len(channels) - 1:
            raise ValueError(
                "centres and neighbours must have one entry a layer and channels one more, "
                f"found {len(centres)}, {len(neighbours)} and {len(channels)}"
            )
        for source, count, k in zip(centres, centres[1:], neighbours[1:], strict=False):
            if max(count, k) > source:
                raise ValueError(f"a layer wants {count} centres of {k} neighbours, but has {source} points")
        self.centres, self.neighbours = centres, tuple(neighbours)
        self.layers = nn.ModuleList(
            RIConv2(before, after, embed_channels)
            for before, after in zip([0, *channels], channels, strict=False)
        )
        self.head = classification_head(channels[-1], head_dims, num_classes, dropout)

    @torch.no_grad()
    def geometry(self, points: Tensor) -> list[NeighbourGeometry]:
        """Features and neighbours of every layer, in float32 or float64."""
        points = check_inputs(points, 6, max(self.centres[0], self.neighbours[0]))
        with torch.autocast(points.device.type, enabled=False):
            levels = sample_levels(*points.split(3, -1), self.centres)
            geometry = []
            for others, centres, k in zip(levels, levels[1:], self.neighbours, strict=False):
                idx, _ = knn(centres[0], others[0], k)
                geometry.append(informative_features(*centres, *others, idx))
            centroid, normal, idx = global_frame(levels[-1][0])
            geometry.append(informative_features(centroid, normal, *levels[-1], idx))
        return geometry

    def forward_geometry(self, geometry: list[NeighbourGeometry]) -> Tensor:
        """Logits (B, num_classes) of clouds whose geometry is known."""
        values = None
        for layer, stage in zip(self.layers, geometry, strict=True):
            values = layer(stage, values)
        return self.head(values[:, 0])

    def forward(self, points: Tensor) -> Tensor:
        return self.forward_geometry(self.geometry(points))

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        return super().smallest(**{"width": 1, **options})
