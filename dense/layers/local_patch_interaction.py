"""Depthwise convolutions between tokens that lie beside each other."""

from torch import Tensor, nn
from torch.nn import functional as F


class LocalPatchInteraction(nn.Module):
    """Depthwise convolution, GELU, batch norm, depthwise convolution: (B, C, H, W) to the same.

    The norm cannot be folded into the second convolution: borders are padded with 0 after it.

    Source: El-Nouby et al., "XCiT: Cross-Covariance Image Transformers", NeurIPS 2021, arXiv 2106.09681.

    Args:
        channels: C.
        kernel_size: of both convolutions, odd.
    """

    def __init__(self, channels: int, kernel_size: int = 3):
        super().__init__()
        how = {"padding": kernel_size // 2, "groups": channels}
        self.conv1 = nn.Conv2d(channels, channels, kernel_size, **how)
        self.norm = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size, **how)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.norm(F.gelu(self.conv1(x))))
