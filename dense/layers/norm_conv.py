"""Batch norm and a 1x1 convolution, one convolution at evaluation."""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .conv_norm import fold_norm
from .reparameterized import ReparameterizedConv


class NormConv(ReparameterizedConv):
    """1x1 convolution of the normed map: (B, in_channels, H, W) to (B, out_channels, H, W).

    Args:
        in_channels, out_channels, bias: of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward_branches(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))

    def merge(self) -> tuple[Tensor, Tensor]:
        return fold_norm_before(self.conv.weight, self.conv.bias, self.norm)


def fold_norm_before(weight: Tensor, bias: Tensor | None, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of the 1x1 convolution that equals ``norm`` at evaluation followed by a given one.

    Args:
        weight: (out, in, 1, 1).
        bias: (out), None for 0.
        norm: of in channels, with running statistics.
    """
    scale, shift = fold_norm(weight.new_ones(weight.shape[1]), None, norm)
    shift = weight[:, :, 0, 0] @ shift
    return weight * scale[:, None, None], shift if bias is None else shift + bias
