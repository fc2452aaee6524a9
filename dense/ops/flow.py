"""Flows: where each position of one map lies in another, x before y, in cells from the position itself.

A cell is one position of the map; the centre of the first has the coordinates 0, 0.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def grid_positions(size: tuple[int, int], like: Tensor) -> Tensor:
    """Coordinates of all positions of a map (H, W): (2, H, W), x and y, as ``like`` in dtype and device."""
    y, x = (torch.arange(n, dtype=like.dtype, device=like.device) for n in size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


def soft_argmax(scores: Tensor, axes: tuple[Tensor, Tensor], beta: float = 0.02) -> Tensor:
    """The mean position by the softmax of scores.

    Args:
        scores: (..., H * W), by rows of the map.
        axes: the coordinates of its columns (W,) and of its rows (H,).
        beta: temperature of the softmax.

    Returns:
        (..., 2), x and y.

    Raises:
        ValueError: scores of another number of positions.

    Source: Lee et al., "SFNet", CVPR 2019, as Cho et al., "CATs", NeurIPS 2021, use it.
    """
    x, y = axes
    if scores.shape[-1] != len(x) * len(y):
        raise ValueError(
            f"scores must be of {len(y)} x {len(x)} positions, found {scores.shape[-1]} in the last axis"
        )
    probabilities = (scores / beta).softmax(-1)
    positions = torch.stack([x.repeat(len(y)), y.repeat_interleave(len(x))], -1)  # (H * W, 2)
    return probabilities @ positions.to(probabilities.dtype)


def sample_at(maps: Tensor, positions: Tensor) -> Tensor:
    """Maps at positions between their cells, bilinearly; beyond the border is what is at the border.

    Args:
        maps: (B, C, H, W).
        positions: (B, 2, h, w), x and y in cells of the maps.

    Returns:
        (B, C, h, w).
    """
    last = positions.new_tensor([max(1, maps.shape[3] - 1), max(1, maps.shape[2] - 1)])
    grid = positions.permute(0, 2, 3, 1) * (2 / last) - 1
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """A flow (B, 2, h, w) on a grid of another size (B, 2, H, W), in cells of that."""
    height, width = flow.shape[2:]
    if (height, width) == tuple(size):
        return flow
    scale = flow.new_tensor([size[1] / width, size[0] / height])
    return F.interpolate(flow, size, mode="bilinear", align_corners=False) * scale[:, None, None]
