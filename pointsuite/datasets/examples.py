"""Random clouds, to test, count and time networks with."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def example_clouds(batch: int, size: int) -> Tensor:
    """Random points with unit normals (B, N, 6): ellipsoids, each of its own axes, denser on one side."""
    axes = 0.3 + 0.7 * torch.rand(batch, 1, 3)
    unit = normalize(torch.randn(batch, size, 3) + 0.5, dim=-1)
    return torch.cat([unit * axes, normalize(unit / axes, dim=-1)], -1)
