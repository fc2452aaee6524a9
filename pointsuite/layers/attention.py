"""The two self-attentions of RISurConv: among a centre's neighbours, and among the points of a cloud.

Both compute E = q k^T without a scale, A = softmax(E) over the last axis, divide A by a sum over another
axis, and return x + ReLU(BN(W(x - A^T v))). Tensors are channels-last, so that every 1x1 convolution of
the published network is one matrix product. A bias right before a batch norm has no effect and no
gradient, so there is none; `RISurConvClassifier.convert_official` moves published ones into the norm.

Source: Guo et al., "PCT: Point cloud transformer", 2021, as used by RISurConv (ECCV 2024).
"""

import torch
from torch import Tensor, nn

from pointsuite.engine.backends import fuses_on_cpu
from pointsuite.engine.sync_batch_norm import batch_moments, track_moments
from pointsuite.ops import add_activated, projected_attention


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

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, N, C) -> (B, S, N, C)."""
        norm = self.norm
        if self.single:
            hidden = self.transform(x - self.value(x.sum(-2, keepdim=True)))
            return x + norm(hidden.flatten(0, -2)).view_as(hidden).relu_()
        with torch.autocast(x.device.type, enabled=False):  # x - A^T v comes out transformed
            values, bias = self.transform.weight @ self.value.weight, self.value.bias
            bias = None if bias is None else self.transform.weight @ bias
        narrow = torch.cat([self.query.weight, self.key.weight])
        wide = torch.cat([values, self.transform.weight])
        fused = fuses_on_cpu(x)
        moments = fused and norm.training
        hidden, mean, variance = projected_attention(x, narrow, wide, bias, self.sum_axis, moments=moments)
        if not fused:
            return x + norm(hidden.flatten(0, -2)).view_as(hidden).relu_()
        if norm.training:
            mean, variance, count = batch_moments(norm, mean, variance, hidden[..., 0].numel())
            track_moments(norm, mean, variance, count)
        else:
            mean, variance = norm.running_mean, norm.running_var
        slope = norm.weight * (variance + norm.eps).rsqrt()
        return add_activated(x, hidden, slope, norm.bias - slope * mean)


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
