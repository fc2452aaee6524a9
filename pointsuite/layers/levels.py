"""Which points are the centres of a network's layers."""

import torch
from torch import Tensor

from pointsuite.ops import farthest_point_sample, gather_points, weighted_normal


def sample_levels(xyz: Tensor, normals: Tensor, centres: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Points and normals of every level, finer ones first: the input's, then the centres of each layer.

    Sampling is nested: the centres of a layer are the first ones of the layer before.

    Args:
        xyz, normals: (B, N, 3).
        centres: their numbers, not growing.

    Returns:
        One pair more than there are layers, each of two tensors (B, S, 3).
    """
    order = farthest_point_sample(xyz, centres[0])
    sampled = gather_points(xyz, order), gather_points(normals, order)
    return [(xyz, normals), *(tuple(t[:, :count] for t in sampled) for count in centres)]


def global_frame(xyz: Tensor, sign: str = "third_moment") -> tuple[Tensor, Tensor, Tensor]:
    """The single centre of a layer over all points (B, N, 3), and its neighbours: all, in their order.

    Args:
        sign: of the normal; see :func:`pointsuite.ops.weighted_normal`.

    Returns:
        The centroid (B, 1, 3), the direction of least spread (B, 1, 3), and indices (B, 1, N) int64.
    """
    centroid = xyz.mean(1, keepdim=True)
    normal = weighted_normal(xyz - centroid, sign)[:, None]
    return centroid, normal, torch.arange(xyz.shape[1], device=xyz.device).expand(len(xyz), 1, -1)
