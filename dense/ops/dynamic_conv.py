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
    # one grouped convolution of B * C groups would want the samples beside each other, channel by channel
    if x.device.type == "cpu" and not is_traced():
        maps = x.permute(0, 3, 1, 2)
        how = {"padding": margins, "groups": x.shape[3]}
        parts = [F.conv2d(m, w, bias, **how) for m, w in zip(maps.split(1), kernels[:, :, None], strict=True)]
        return torch.cat(parts).permute(0, 2, 3, 1)
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, margins[1], margins[1], margins[0], margins[0]))
    y = None if bias is None else bias.expand_as(x)
    for i in range(size[0]):
        for j in range(size[1]):
            tap, shifted = kernels[:, None, None, :, i, j], padded[:, i : i + height, j : j + width]
            y = tap * shifted if y is None else torch.addcmul(y, tap, shifted)
    return y
