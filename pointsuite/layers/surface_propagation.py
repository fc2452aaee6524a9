"""RISurConv's feature propagation: from the centres of a layer back to the points that they were drawn from.

Source: Zhang, Yang, Xiang, "RISurConv", ECCV 2024. Tensors are channels-last: (B, S, K, C).
"""

import torch
from torch import Tensor, nn

from .mlp import mlp
from .surface_conv import SurfaceConv


class SurfacePropagation(nn.Module):
    """A surface convolution whose centres are the fine points and whose neighbours are coarse ones.

    Args:
        in_channels: channels of the coarse points.
        conv_channels: channels of the surface convolution.
        skip_channels: channels that the fine points carry already, 0 for none.
        mlp_channels: widths of the MLP behind, on the convolution's and the skipped channels together.
        embed_channels: width of the embedded surface features.
    """

    def __init__(
        self,
        in_channels: int,
        conv_channels: int,
        skip_channels: int = 0,
        mlp_channels: tuple[int, ...] = (),
        embed_channels: int = 64,
    ):
        super().__init__()
        self.conv = SurfaceConv(in_channels, conv_channels, embed_channels)
        self.mlp = mlp(conv_channels + skip_channels, *mlp_channels)

    def forward(self, features: Tensor, idx: Tensor, values: Tensor, skip: Tensor | None = None) -> Tensor:
        """Compute the fine points' values.

        Args:
            features: (B, N, K, 14) surface features.
            idx: (B, N, K) int64, the coarse points behind them.
            values: (B, S, in_channels) of the coarse points.
            skip: (B, N, skip_channels) of the fine points.

        Returns:
            (B, N, mlp_channels[-1]), or as many channels as enter the MLP where it has no layers.
        """
        x = self.conv(features, idx, values)
        return self.mlp(x if skip is None else torch.cat([x, skip], -1))
