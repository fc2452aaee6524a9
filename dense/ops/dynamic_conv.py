"""Convolutions whose kernels each sample has for itself."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pointsuite.engine.backends import is_traced


def dynamic_depthwise_conv(x: Tensor, kernels: Tensor, bias: Tensor | None = None) -> Tensor:
    """Depthwise convolution (cross-correlation, stride 1) with kernels of each sample, zeros around the map.

    Args:
        x: (B, H, W, C).
        kernels: (B, C, K, L), K and L odd.
        bias: (C), or none.

    Returns:
        (B, H, W, C), channels last in memory.

    Raises:
        ValueError: shapes that do not fit, or even kernels.
    """
    if x.ndim != 4 or kernels.ndim != 4 or kernels.shape[:2] != (len(x), x.shape[3]):
        found = f"{tuple(x.shape)} and {tuple(kernels.shape)}"
        raise ValueError(f"x and kernels must be (B, H, W, C) and (B, C, K, L), found {found}")
    size = kernels.shape[2:]
    if not all(side % 2 for side in size):
        raise ValueError(f"kernels must have odd sides, found {size[0]} x {size[1]}")
    margins = [side // 2 for side in size]
    if x.device.type == "cpu" and len(x) and not is_traced():
        # one convolution of B * C groups: samples beside each other, channel by channel
        maps = x.permute(1, 2, 0, 3).flatten(2)[None].permute(0, 3, 1, 2)
        shared = None if bias is None else bias.repeat(len(x))
        y = F.conv2d(maps, kernels.flatten(0, 1)[:, None], shared, padding=margins, groups=maps.shape[1])
        return y[0].unflatten(0, x.shape[::3]).permute(0, 2, 3, 1).contiguous()
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, margins[1], margins[1], margins[0], margins[0]))
    y = None if bias is None else bias.expand_as(x)
    for i in range(size[0]):
        for j in range(size[1]):
            tap, shifted = kernels[:, None, None, :, i, j], padded[:, i : i + height, j : j + width]
            y = tap * shifted if y is None else torch.addcmul(y, tap, shifted)
    return y
