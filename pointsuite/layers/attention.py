"""The two self-attentions of RISurConv: among a centre's neighbours, and among the points of a cloud.

Both compute E = q k^T without a scale, A = softmax(E) over the last axis, divide A by a sum over another
axis, and return x + ReLU(BN(W(x - A^T v))). Tensors are channels-last, so that every 1x1 convolution of
the published network is one matrix product. A bias right before a batch norm has no effect and no
gradient, so there is none; `RISurConvClassifier.convert_official` moves published ones into the norm.

Source: Guo et al., "PCT: Point cloud transformer", 2021, as used by RISurConv (ECCV 2024).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from pointsuite.ops import offset_attention


class OffsetAttention(nn.Module):
    """The common part; a subclass names the axis over which A is summed.

    Args:
        channels: C, a multiple of 4; queries and keys have C / 4 channels.
        value_bias: whether the values have a bias.
        single: the summed axis has one entry, so A is all ones: no queries and keys, y = sum of the values.
    """

    sum_axis: int

    def __init__(self, channels: int, value_bias: bool, single: bool = False):
        super().__init__()
        if channels % 4:
            raise ValueError(f"channels must be a multiple of 4, found {channels}")
        self.single = single
        if not single:
            self.query = nn.Linear(channels, channels // 4, bias=False)
            self.key = nn.Linear(channels, channels // 4, bias=False)
        self.value = nn.Linear(channels, channels, bias=value_bias and not single)
        self.transform = nn.Linear(channels, channels, bias=False)
        self.norm = nn.BatchNorm1d(channels)

    def offset(self, x: Tensor) -> Tensor:
        """(B, S, N, C) -> x - A^T v, (B, S, N, C)."""
        if self.single:
            return x - self.value(x.sum(-2, keepdim=True))
        weight = torch.cat(
            [self.query.weight, self.key.weight, self.value.weight]
        )  # one product for the three
        bias = self.value.bias
        if bias is not None:
            bias = pad(bias, (len(weight) - len(bias), 0))
        return offset_attention(x, linear(x, weight, bias), self.sum_axis)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, N, C) -> (B, S, N, C)."""
        hidden = self.transform(self.offset(x))
        return x + self.norm(hidden.flatten(0, -2)).view_as(hidden).relu_()


class NeighbourAttention(OffsetAttention):
    """Attention among the K neighbours of each centre: (B, S, K, C) -> (B, S, K, C).

    A[i, j] is divided by its sum over the S centres of the cloud, slot by slot, as published: a centre's
    output depends on all centres of its cloud and shrinks like 1 / S.
    """

    sum_axis = -3

    def __init__(self, channels: int, single: bool = False):
        super().__init__(channels, value_bias=True, single=single)


class PointAttention(OffsetAttention):
    """Attention among the N points of a cloud: (B, N, C) -> (B, N, C). The columns of A sum to one."""

    sum_axis = -2

    def __init__(self, channels: int, single: bool = False):
        super().__init__(channels, value_bias=False, single=single)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return super().forward(x[:, None])[:, 0]
