"""Squeeze and excitation: gates of channels.

Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.linear import ACTIVATIONS
from ..registry import MODELS


def channel_gates(x: Tensor, squeeze: nn.Module, excite: nn.Module, activation: str = "relu") -> Tensor:
    """Gates (B, C, 1, 1) of the channels of (B, C, H, W), by two 1x1 convolutions of their means."""
    hidden = ACTIVATIONS[activation](_pointwise(squeeze, x.mean((2, 3))))
    return _pointwise(excite, hidden).sigmoid()[:, :, None, None]


def _pointwise(layer: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution of (B, C) is a linear layer, which CPUs are quicker at."""
    if type(layer) is not nn.Conv2d:
        return layer(x[:, :, None, None]).flatten(1)
    return F.linear(x, layer.weight.flatten(1), layer.bias)


class SqueezeExcitation(nn.Module):
    """Gate of each channel from the means of all: (B, C, H, W) to the same.

    Args:
        channels: C.
        hidden: channels between the two layers.
        activation: between them, see :func:`dense.ops.linear`.
        bias: of both.
    """

    def __init__(self, channels: int, hidden: int, activation: str = "relu", bias: bool = True):
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return x * channel_gates(x, self.fc1, self.fc2, self.activation)


@MODELS.register_module()
class SE(SqueezeExcitation):
    """:class:`SqueezeExcitation` as a plugin of ResNets, see :class:`~dense.layers.PluggedBlock`.

    Args:
        in_channels: C.
        ratio: of C to the channels between the two layers, as published 16; there is at least one.
    """

    _abbr_ = "se"  # what ResNets call it

    def __init__(self, in_channels: int, ratio: int = 16):
        super().__init__(in_channels, max(1, in_channels // ratio))
