"""CBAM: gates of channels, then gates of positions.

Source: Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv 1807.06521.
"""

import torch
from torch import Tensor, nn

from ..registry import MODELS


@MODELS.register_module()
class CBAM(nn.Module):
    r"""Channels, then positions gated by means and maxima: (B, C, H, W) to the same.

    .. math:: x' = x\, \sigma(f(\mathrm{mean}_{ij} x) + f(\max_{ij} x)), \quad
        y = x'\, \sigma(\mathrm{conv}([\mathrm{mean}_c x'; \max_c x']))

    with one MLP f. Neither has biases. A plugin of ResNets, too: see :class:`~dense.layers.PluggedBlock`.

    Args:
        in_channels: C.
        ratio: of C to the hidden channels of f, of which there is at least one.
        kernel_size: of the convolution, odd.

    Raises:
        ValueError: an even kernel.
    """

    _abbr_ = "cbam"  # what ResNets call it

    def __init__(self, in_channels: int, ratio: int = 16, kernel_size: int = 7):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size of CBAM must be odd, found {kernel_size}")
        hidden = max(1, in_channels // ratio)
        self.fc1 = nn.Linear(in_channels, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, in_channels, bias=False)
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def gate_channels(self, x: Tensor) -> Tensor:
        """x', as above."""
        hidden = self.fc1(torch.stack((x.mean((2, 3)), x.amax((2, 3))))).relu()
        return x * self.fc2(hidden).sum(0).sigmoid()[:, :, None, None].to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate_channels(x)
        seen = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * self.conv(seen).sigmoid()
