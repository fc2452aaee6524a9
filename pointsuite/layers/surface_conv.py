"""RISurConv's set abstraction: surface features in, point features out.

Source: Zhang, Yang, Xiang, "RISurConv", ECCV 2024. Tensors are channels-last: (B, S, K, C).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pointsuite.engine.parallel import cache_sized
from pointsuite.engine.sync_batch_norm import batch_moments, track_moments
from pointsuite.ops import NUM_FEATURES, linear_relu, pool_neighbours

from .attention import NeighbourAttention, PointAttention


class SurfaceEmbedding(nn.Module):
    """conv 14 -> hidden, BN, conv hidden -> out, BN, ReLU: (B, S, K, 14) -> (B, S, K, out).

    No activation stands between the convolutions, so the whole is one affine map before the ReLU. In
    training too: the batch statistics of an affine map follow from the mean and covariance of its input,
    which here is constant (the features have no gradient). One product of 14 columns replaces two
    convolutions and two batch norms over all neighbours; the numbers and gradients are the same.
    """

    def __init__(self, out_channels: int, hidden_channels: int | None = None):
        super().__init__()
        hidden_channels = hidden_channels or out_channels // 2
        self.conv1 = nn.Linear(NUM_FEATURES, hidden_channels, bias=False)
        self.norm1 = nn.BatchNorm1d(hidden_channels)
        self.norm1.bias.requires_grad = False  # behind conv2 a constant, which norm2 takes away
        self.conv2 = nn.Linear(hidden_channels, out_channels, bias=False)
        self.norm2 = nn.BatchNorm1d(out_channels)

    def _through_norm(
        self, weight: Tensor, offset: Tensor, norm: nn.BatchNorm1d, mean: Tensor, cov: Tensor, count
    ):
        """Compose the affine map (weight, offset) of the features with a batch norm."""
        if norm.training:
            centre = weight @ mean + offset
            variance = ((weight @ cov) * weight).sum(-1)
            track_moments(norm, centre, variance, count)
        else:
            centre, variance = norm.running_mean, norm.running_var
        scale = norm.weight * (variance + norm.eps).rsqrt()
        return scale[:, None] * weight, scale * (offset - centre) + norm.bias

    def forward(self, features: Tensor) -> Tensor:
        features = features.to(self.conv1.weight.dtype)
        mean = cov = count = None
        with torch.autocast(features.device.type, enabled=False):
            if self.training:
                with torch.no_grad():
                    rows = features.reshape(-1, NUM_FEATURES).to(
                        torch.promote_types(features.dtype, torch.float32)
                    )
                    count, mean = len(rows), rows.mean(0)
                    cov = (rows - mean).T @ (rows - mean) / count
                    mean, cov, count = batch_moments(self.norm1, mean, cov, count)
                    mean, cov = mean.to(features.dtype), cov.to(features.dtype)
            weight, offset = self.conv1.weight, self.conv1.weight.new_zeros(self.conv1.out_features)
            weight, offset = self._through_norm(weight, offset, self.norm1, mean, cov, count)
            weight, offset = self.conv2.weight @ weight, self.conv2.weight @ offset
            weight, offset = self._through_norm(weight, offset, self.norm2, mean, cov, count)
        return linear_relu(features, weight, offset)


class SurfaceConv(nn.Module):
    """One RISurConv layer: embed the features, attend among neighbours, join what points carry, pool, attend.

    Args:
        in_channels: channels that the points carry, 0 for none.
        out_channels: channels of the centres.
        embed_channels: width of the embedded surface features.
        single: the layer has one centre a cloud (group-all).
        keep_queries: with `single`, compute the neighbour attention in full, though all but its rounding is
            ones.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embed_channels: int = 64,
        single: bool = False,
        keep_queries: bool = False,
    ):
        super().__init__()
        self.embedding = SurfaceEmbedding(embed_channels)
        self.neighbour_attention = NeighbourAttention(embed_channels, single and not keep_queries)
        self.conv = nn.Linear(embed_channels + in_channels, out_channels, bias=False)
        self.norm = nn.BatchNorm1d(out_channels)
        self.point_attention = PointAttention(out_channels, single)
        self.embed_channels = embed_channels

    def forward(self, features: Tensor, idx: Tensor, values: Tensor | None = None) -> Tensor:
        """Compute the centres' values.

        Args:
            features: (B, S, K, 14) surface features.
            idx: (B, S, K) int64, the points behind them.
            values: (B, N, in_channels) of the points; None for the first layer.

        Returns:
            (B, S, out_channels).
        """
        if self.training or features.is_cuda or torch.compiler.is_compiling():
            return self._forward(features, idx, values)
        # Nothing joins the clouds in evaluation: a few at a time keep every temporary in the cache.
        numbers = features[0, ..., 0].numel() * self.embed_channels
        return torch.cat(
            [
                self._forward(features[part], idx[part], None if values is None else values[part])
                for part in cache_sized(features, numbers)
            ]
        )

    def _forward(self, features: Tensor, idx: Tensor, values: Tensor | None) -> Tensor:
        x = self.neighbour_attention(self.embedding(features))  # (B, S, K, E)
        return self.point_attention(self._pool(x, idx, values))

    def _pool(self, x: Tensor, idx: Tensor, values: Tensor | None) -> Tensor:
        """conv over [x, gathered values], BN, ReLU, maximum over the K neighbours: (B, S, out_channels)."""
        norm, weight = self.norm, self.conv.weight
        # BN and ReLU are monotone, so the maximum comes first, on weights whose sign makes each slope
        # positive; the convolution of the values runs on the N points instead of the S * K neighbours.
        if norm.training:
            weight = torch.where(norm.weight < 0, -1, 1)[:, None] * weight
            slope = norm.weight.abs()
        else:
            slope = norm.weight * (norm.running_var + norm.eps).rsqrt()
            weight, shift = slope[:, None] * weight, norm.bias - slope * norm.running_mean
        weight, of_values = weight.split([self.embed_channels, weight.shape[1] - self.embed_channels], 1)
        values = None if values is None else linear(values, of_values)
        top, mean, variance = pool_neighbours(x, weight, values, idx, moments=norm.training)
        if not norm.training:
            return (top + shift).relu_()
        mean, variance, count = batch_moments(norm, mean, variance, x[..., 0].numel())
        slope = slope * (variance + norm.eps).rsqrt()
        track_moments(norm, torch.where(norm.weight < 0, -mean, mean), variance, count)
        return (top * slope + (norm.bias - slope * mean)).relu_()
