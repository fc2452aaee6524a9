"""Layer norms of Transformers and of feature maps."""

from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` whose epsilon is 1e-6 by default, as vision Transformers have it."""

    def __init__(self, channels: int, eps: float = 1e-6, **kwargs):
        super().__init__(channels, eps, **kwargs)


class LayerNorm2d(LayerNorm):
    """Layer norm over the channels of each position: (B, C, H, W) to the same, channels last in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
