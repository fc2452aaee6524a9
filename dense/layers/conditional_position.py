"""Conditional position encoding."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .channels_last import on_channels_last
from .weighted_conv import effective_weight


class ConditionalPosition(nn.Module):
    """x + act(depthwise convolution of x): (B, H, W, C) to the same.

    The zeros around the map tell pixels where they are, at any size. Source: Chu et al., "Conditional
    Positional Encodings for Vision Transformers", ICLR 2023.

    Args:
        channels: C.
        kernel_size: odd.
        act: follows the convolution; nothing by default.
    """

    def __init__(self, channels: int, kernel_size: int = 3, act: nn.Module | None = None):
        super().__init__()
        self.proj = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return on_channels_last(self._encode, x)

    def _encode(self, x: Tensor) -> Tensor:
        conv = self.proj
        if self.act is not None:
            return x + self.act(conv(x))
        if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
            # a one at the kernel's centre adds x, and saves a pass over the map; elsewhere it would round x
            centre = F.pad(conv.weight.new_ones(1, 1, 1, 1), [conv.padding[0]] * 4)
            weight = effective_weight(conv) + centre
            return F.conv2d(x, weight, conv.bias, padding=conv.padding, groups=conv.groups)
        return x + conv(x)
