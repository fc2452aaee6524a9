"""Norms over the channels of each position, of Transformers and of feature maps."""

import torch
from torch import Tensor, nn

from ..ops.linear import linear, use_onednn


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` whose epsilon is 1e-6 by default, as vision Transformers have it."""

    def __init__(self, channels: int, eps: float = 1e-6, **kwargs):
        super().__init__(channels, eps, **kwargs)


class LayerNorm2d(LayerNorm):
    """Layer norm over the channels of each position: (B, C, H, W) to the same, channels last in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class RMSNorm(nn.RMSNorm):
    """``nn.RMSNorm`` of the last axis whose epsilon is 1e-6 by default: (..., C) to the same.

    Source: Zhang, Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019, arXiv 1910.07467.
    """

    def __init__(self, channels: int, eps: float = 1e-6, **kwargs):
        super().__init__(channels, eps, **kwargs)

    def before(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """``layer(norm(x))``: (..., C) to (..., out).

        Fast inference puts the weights of the norm into the layer's, and divides what comes out of it, which
        is as a rule narrower: nothing as large as x is written.
        """
        if not use_onednn(x, layer.weight):
            return layer(self(x))
        mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1]
        weight = layer.weight if self.weight is None else layer.weight * self.weight
        y, scale = linear(x, weight), (mean + self.eps).rsqrt_()
        return y.mul_(scale) if layer.bias is None else torch.addcmul(layer.bias, y, scale)
