"""PointNet++: PointNets of neighbourhoods, in levels of fewer and fewer centres.

Paper: Qi, Yi, Su, Guibas, "PointNet++: Deep Hierarchical Feature Learning on Point Sets in a Metric Space",
NeurIPS 2017, arXiv 1706.02413.
Published code: charlesq34/pointnet2 (TensorFlow), MIT. This is an independent implementation.

One point differs from the published code: where a ball holds more points than asked for, ours are the
nearest (`pointsuite.ops.ball_query`), the published ones the first in the order of the input.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pointsuite.engine.zoo import ZOO
from pointsuite.layers import ChannelNorm, check_in_channels, check_inputs, classification_head, mlp
from pointsuite.ops import ball_query, farthest_point_sample, gather_points
from pointsuite.registry import MODELS

from .base import CoordinateNetwork


class BallPointNet(nn.Module):
    """One scale: an MLP of [offset from the centre, values] of the points of a ball, and its maximum.

    Args:
        radius: of the ball around each centre.
        neighbours: most points of a ball.
        in_channels: of the points' values, 0 for none.
        channels: of the MLP.
    """

    def __init__(self, radius: float, neighbours: int, in_channels: int, channels: Sequence[int]):
        super().__init__()
        self.radius, self.neighbours = radius, neighbours
        self.linear = nn.Linear(3 + in_channels, channels[0], bias=False)
        self.rest = nn.Sequential(ChannelNorm(channels[0]), nn.ReLU(), *mlp(*channels))

    def forward(self, centres: Tensor, xyz: Tensor, values: Tensor | None) -> Tensor:
        """Centres (B, S, 3), points (B, N, 3) and their values (B, N, C) or None -> (B, S, channels[-1])."""
        idx, _ = ball_query(centres, xyz, self.radius, self.neighbours)
        hidden = linear(gather_points(xyz, idx) - centres[:, :, None], self.linear.weight[:, :3])
        if values is not None:  # the first linear map runs on the N points instead of their S * K copies
            hidden = hidden + gather_points(linear(values, self.linear.weight[:, 3:]), idx)
        return self.rest(hidden).amax(2)


class SetAbstraction(nn.Module):
    """One level: farthest points as centres, and the joined scales around them."""

    def __init__(self, centres: int, scales: Sequence[BallPointNet]):
        super().__init__()
        self.centres = centres
        self.scales = nn.ModuleList(scales)

    def forward(self, xyz: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor]:
        """Points (B, N, 3) and values (B, N, C) or None -> centres (B, S, 3) and their values (B, S, C')."""
        centres = gather_points(xyz, farthest_point_sample(xyz, self.centres))
        return centres, torch.cat([scale(centres, xyz, values) for scale in self.scales], -1)


@ZOO.register_network("pointnet2", MODELS)
class PointNet2Classifier(CoordinateNetwork):
    """PointNet++'s classifier: (B, N, 6) points and unit normals -> (B, num_classes) logits.

    Args:
        num_classes: classes.
        arch: "ssg" (single-scale grouping), "msg" (multi-scale grouping), or a dict as those in ``archs``:
            one entry a level, in it one entry a scale. Radii are for clouds in the unit sphere.
        in_channels: 6, or 3 to take coordinates only.
        global_channels: of the last MLP, over all centres of the last level.
        head_dims, dropout: hidden widths of the classifying head, and the dropout after each.

    Raises:
        ValueError: unknown arch or one that does not fit together; points of the wrong shape, fewer than
            the first level's centres, NaN or infinity.
    """

    title = "PointNet++"
    folder = "baselines"
    paper = (
        'Qi, Yi, Su, Guibas, "PointNet++: Deep Hierarchical Feature Learning on Point Sets in a Metric '
        'Space", NeurIPS 2017, arXiv 1706.02413'
    )
    code = "charlesq34/pointnet2"
    licence = "MIT"
    archs = {
        "ssg_cls": {
            "centres": (512, 128),
            "radii": ((0.2,), (0.4,)),
            "neighbours": ((32,), (64,)),
            "channels": (((64, 64, 128),), ((128, 128, 256),)),
        },
        "msg_cls": {
            "centres": (512, 128),
            "radii": ((0.1, 0.2, 0.4), (0.2, 0.4, 0.8)),
            "neighbours": ((16, 32, 128), (32, 64, 128)),
            "channels": (
                ((32, 32, 64), (64, 64, 128), (64, 96, 128)),
                ((64, 64, 128), (128, 128, 256), (128, 128, 256)),
            ),
        },
    }
    num_parameters = {"ssg_cls": 1_472_552, "msg_cls": 1_743_336}

    def __init__(
        self,
        num_classes: int = 40,
        arch: str | Mapping[str, Any] = "ssg",
        *,
        in_channels: int = 6,
        global_channels: tuple[int, ...] = (256, 512, 1024),
        head_dims: tuple[int, ...] = (512, 256),
        dropout: float = 0.5,
    ):
        super().__init__()
        check_in_channels(in_channels)
        arch = self.find_arch(f"{arch}_cls" if arch in ("ssg", "msg") else arch)
        if len({len(levels) for levels in arch.values()}) > 1:
            raise ValueError(f"arch must have one entry a level in each of {tuple(arch)}, found {arch}")
        if list(arch["centres"]) != sorted(arch["centres"], reverse=True):
            raise ValueError(f"centres must not grow from level to level, found {tuple(arch['centres'])}")
        self.in_channels = in_channels
        self.levels = nn.ModuleList()
        width = in_channels - 3
        for centres, *scales in zip(*(arch[key] for key in self.archs["ssg_cls"]), strict=True):
            scales = [BallPointNet(r, k, width, channels) for r, k, channels in zip(*scales, strict=True)]
            self.levels.append(SetAbstraction(centres, scales))
            width = sum(channels[-1] for channels in arch["channels"][len(self.levels) - 1])
        self.globals = mlp(3 + width, *global_channels)
        self.head = classification_head(global_channels[-1], head_dims, num_classes, dropout)

    def forward(self, points: Tensor) -> Tensor:
        points = check_inputs(points, self.in_channels, self.levels[0].centres)
        xyz, values = points[..., :3], points[..., 3:] if self.in_channels > 3 else None
        for level in self.levels:
            xyz, values = level(xyz, values)
        return self.head(self.globals(torch.cat([xyz, values], -1)).amax(1))

    @classmethod
    def create(cls, arch: str | Mapping[str, Any], **options) -> nn.Module:
        return cls(arch=arch, **options)
