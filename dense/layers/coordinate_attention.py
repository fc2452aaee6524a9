"""Coordinate attention: gates of rows and columns from both strips of means together.

Source: Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021, arXiv
2103.02907; in the form of Vir, "Balanced Multi-Task Attention for Satellite Image Classification", arXiv
2510.15527: ReLU where the original has h-swish, a ratio of 8 without a floor, no biases.
"""

import torch
from torch import Tensor, nn

from ..ops.coordinate_product import coordinate_product
from ..registry import MODELS
from .conv_norm import ConvNorm
from .squeeze_excitation import SqueezeExcitation, channel_gates


def strip_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the rows and columns of (B, C, H, W), (B, C, H) and (B, C, W), summed in float32 at least."""
    exact = torch.promote_types(x.dtype, torch.float32)
    rows, columns = (x.mean(axis, dtype=exact).to(x.dtype) for axis in (3, 2))
    return rows, columns


@MODELS.register_module()
class CoordinateAttention(nn.Module):
    r"""Each pixel times a gate of its row and a gate of its column: (B, C, H, W) to the same.

    .. math:: u = \mathrm{ReLU}(\mathrm{BN}(W [\bar x_{ci\cdot}; \bar x_{c\cdot j}])), \quad
        y_{cij} = x_{cij}\, \sigma(W^h u^h)_{ci}\, \sigma(W^w u^w)_{cj}

    The norm sees both strips of an image beside each other, H + W positions. A plugin of ResNets, too: see
    :class:`~dense.layers.PluggedBlock`.

    Args:
        in_channels: C.
        ratio: of C to the channels of u, of which there is at least one.
    """

    _abbr_ = "ca"  # what ResNets call it

    def __init__(self, in_channels: int, ratio: int = 8):
        super().__init__()
        hidden = max(1, in_channels // ratio)
        self.squeeze = ConvNorm(in_channels, hidden, 1)
        self.rows, self.columns = (nn.Conv2d(hidden, in_channels, 1, bias=False) for _ in range(2))

    def gates(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Gates (B, C, H) and (B, C, W) from the means of rows and of columns, of the same shapes."""
        u = self.squeeze(torch.cat((rows, columns), 2)[..., None], "relu")
        parts = u.split((rows.shape[2], columns.shape[2]), 2)
        a, b = (conv(part) for conv, part in zip((self.rows, self.columns), parts, strict=True))
        return a[..., 0].sigmoid(), b[..., 0].sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return coordinate_product(x, *(gate.to(x.dtype) for gate in self.gates(*strip_means(x))))


@MODELS.register_module()
class BalancedAttention(nn.Module):
    r"""Coordinate attention and squeeze and excitation of one map, mixed: (B, C, H, W) to the same.

    .. math:: y = a\, \mathrm{CA}(x) + (1 - a)\, \mathrm{SE}(x) = x\, (a\, a^h a^w + (1 - a)\, s), \quad
        a = \sigma(\alpha)

    with one learned number alpha. The mean of the map is that of its rows' means, and all gates go to it in
    one product. A plugin of ResNets, too.

    Args:
        in_channels: C.
        ratio: of coordinate attention.
        se_ratio: of C to the hidden channels of squeeze and excitation, of which there is at least one.
        alpha: its initial value.

    Source: Vir, arXiv 2510.15527.
    """

    _abbr_ = "balanced"  # what ResNets call it

    def __init__(self, in_channels: int, ratio: int = 8, se_ratio: int = 16, alpha: float = 0.5):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))
        self.coordinate = CoordinateAttention(in_channels, ratio)
        self.se = SqueezeExcitation(in_channels, max(1, in_channels // se_ratio), bias=False)

    @property
    def share(self) -> Tensor:
        """Of coordinate attention in the sum, between 0 and 1: a scalar."""
        return self.alpha.sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = strip_means(x)
        across, down = self.coordinate.gates(rows, columns)
        channels = channel_gates(rows[..., None], self.se.fc1, self.se.fc2).flatten(1)
        share = self.share
        gates = share * across, down, (1 - share) * channels
        return coordinate_product(x, *(gate.to(x.dtype) for gate in gates))
