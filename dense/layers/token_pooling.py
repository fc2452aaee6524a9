"""Token-aware average pooling: each token averages a neighbourhood of a size of its own."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TokenAwarePooling(nn.Module):
    """A weighted sum of a map's averages over 3x3 neighbours at several dilations: (B, C, H, W) to the same.

    The first scale is the map itself, scale i the mean of a neighbourhood dilated by i, in which what lies
    beyond the border counts as 0. Two convolutions predict the weights of each position.

    Source: Guo et al., "Robustifying Token Attention for Vision Transformers", ICCV 2023, arXiv 2303.11126.

    Args:
        channels: C.
        num_scales: K, at least 1.
        temperature: of the softmax over scales.
    """

    def __init__(self, channels: int, num_scales: int = 4, temperature: float = 1.0):
        super().__init__()
        if num_scales < 1:
            raise ValueError(f"num_scales must be at least 1, found {num_scales}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, found {temperature}")
        self.num_scales, self.temperature = num_scales, temperature
        self.proj = nn.Sequential(
            nn.Conv2d(channels, num_scales, 3, padding=1, bias=False),
            nn.BatchNorm2d(num_scales),
            nn.Conv2d(num_scales, num_scales, 3, padding=1, bias=False),
        )

    def weights(self, x: Tensor) -> Tensor:
        """Of each scale at each position: (B, K, H, W), whose sum over K is 1."""
        return (self.proj(x) / self.temperature).softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weights(x)
        y = weights[:, :1] * x
        for i in range(1, self.num_scales):
            y = torch.addcmul(y, weights[:, i : i + 1], mean_of_neighbours(x, i))
        return y


def mean_of_neighbours(x: Tensor, dilation: int) -> Tensor:
    """Mean over the 3x3 neighbours at a dilation, 0 beyond the border: (B, C, H, W) to the same."""
    channels = x.shape[1]
    kernel = x.new_full((channels, 1, 3, 3), 1 / 9)
    return F.conv2d(x, kernel, padding=dilation, dilation=dilation, groups=channels)
