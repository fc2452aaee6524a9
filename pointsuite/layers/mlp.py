"""Blocks of every network of points: checked input, shared MLPs, a head that classifies.

Tensors are channels-last, so that a 1x1 convolution is a matrix product. A linear map right before a batch
norm has no bias: it would have no effect and no gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pointsuite.ops._checks import check_cloud, check_finite


def check_inputs(points: Tensor, in_channels: int, wanted: int = 1) -> Tensor:
    """The first `in_channels` of points, in float32 at least: coordinates do not survive 16 bits.

    Args:
        points: (B, N, 6) xyz and unit normal, or (B, N, 3) where the network takes no normals.
        in_channels: 3 or 6.
        wanted: the fewest points that the network can use.

    Raises:
        ValueError: wrong shape, too few points, NaN or infinity.
    """
    if points.ndim != 3 or points.shape[-1] not in (in_channels, 6):
        shape = "(B, N, 6), xyz and unit normal" if in_channels == 6 else "(B, N, 3) or (B, N, 6)"
        raise ValueError(f"points must have shape {shape}, found {tuple(points.shape)}")
    points = points[..., :in_channels].to(torch.promote_types(points.dtype, torch.float32))
    check_cloud("points", points[..., :3])
    if points.shape[1] < wanted:
        raise ValueError(f"this network needs {wanted} points of each cloud, found {points.shape[1]} points")
    if not torch.compiler.is_compiling():
        check_finite("points", points)
    return points


def check_in_channels(in_channels: int) -> None:
    if in_channels not in (3, 6):
        raise ValueError(f"in_channels must be 3 (xyz) or 6 (xyz and normal), found {in_channels}")


class ChannelNorm(nn.BatchNorm1d):
    """Batch norm of the last axis: (..., C) -> (..., C), the statistics over all other axes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view_as(x)


def mlp(*channels: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear, batch norm and activation from each width to the next, for any leading axes.

    Applied to points (..., channels[0]) -> (..., channels[-1]), it is the shared MLP of PointNet.
    """
    layers = []
    for before, after in zip(channels, channels[1:], strict=False):
        layers += [nn.Linear(before, after, bias=False), ChannelNorm(after), activation()]
    return nn.Sequential(*layers)


def classification_head(
    in_channels: int,
    hidden: Sequence[int],
    num_classes: int,
    dropout: float,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """(B, in_channels) -> (B, num_classes) logits, for 0 classes features; dropout follows hidden layers."""
    widths = [in_channels, *hidden]
    blocks = [
        nn.Sequential(*mlp(before, after, activation=activation), nn.Dropout(dropout))
        for before, after in zip(widths, hidden, strict=False)
    ]
    return nn.Sequential(*blocks, *([nn.Linear(widths[-1], num_classes)] if num_classes else []))
