"""Squeeze and excitation: gates of channels.

Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507.
"""

from torch import Tensor, nn


def channel_gates(x: Tensor, squeeze: nn.Module, excite: nn.Module) -> Tensor:
    """Gates (B, C, 1, 1) of the channels of (B, C, H, W), by two 1x1 convolutions of their means."""
    return excite(squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class SqueezeExcitation(nn.Module):
    """Gate of each channel from the means of all: (B, C, H, W) to the same.

    Args:
        channels: C.
        hidden: channels between the two layers.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * channel_gates(x, self.fc1, self.fc2)
