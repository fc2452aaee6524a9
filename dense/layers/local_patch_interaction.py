"""Depthwise convolutions between tokens that lie beside each other."""

from torch import Tensor, nn
from torch.nn import functional as F


class LocalPatchInteraction(nn.Module):
    """Depthwise 3x3 convolution, GELU, batch norm, depthwise 3x3 convolution: (B, C, H, W) to the same.

    The norm cannot be folded into the second convolution: borders are padded with 0 after it.

    Source: El-Nouby et al., "XCiT: Cross-Covariance Image Transformers", NeurIPS 2021, arXiv 2106.09681.

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.norm(F.gelu(self.conv1(x))))
