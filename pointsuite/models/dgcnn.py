"""DGCNN: convolutions over the edges of a graph of nearest neighbours, found anew in each layer's features.

Paper: Wang, Sun, Liu, Sarma, Bronstein, Solomon, "Dynamic Graph CNN for Learning on Point Clouds",
ACM Transactions on Graphics 2019, arXiv 1801.07829.
Published code: WangYueFt/dgcnn (TensorFlow and PyTorch), MIT. This is an independent implementation.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear

from pointsuite.engine.zoo import ZOO
from pointsuite.layers import ChannelNorm, check_in_channels, check_inputs, classification_head, mlp
from pointsuite.ops import gather_points, knn
from pointsuite.registry import MODELS

from .base import CoordinateNetwork

SLOPE = 0.2  # of every leaky ReLU
LeakyReLU = partial(nn.LeakyReLU, SLOPE)


@torch.no_grad()
def feature_neighbours(values: Tensor, k: int) -> Tensor:
    """Indices (B, N, k) int64 of the k nearest by values (B, N, C), each point among its own.

    In float32 at least and in the expanded form, so near ties are decided by rounding; at most about 2**25
    distances at once.
    """
    with torch.autocast(values.device.type, enabled=False):
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        values = values - values.mean(1, keepdim=True)  # small numbers: their squares cancel less
        neighbours = [
            # |a - b|^2 less |a|^2, which is the same for all b
            (part.square().sum(-1)[:, None] - 2 * part @ part.mT).topk(k, largest=False).indices
            for part in values.split(max(1, 2**25 // values.shape[1] ** 2))
        ]
    return torch.cat(neighbours)


class EdgeConv(nn.Module):
    """max over the k neighbours j of LeakyReLU(BN(W [x_j - x_i, x_i])): (B, N, C) -> (B, N, C')."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.linear = nn.Linear(2 * in_channels, out_channels, bias=False)
        self.norm = ChannelNorm(out_channels)

    def forward(self, x: Tensor, idx: Tensor) -> Tensor:
        # W [x_j - x_i, x_i] = A x_j + (B - A) x_i: products over N points instead of N * k edges
        edge, centre = self.linear.weight.chunk(2, 1)
        hidden = gather_points(linear(x, edge), idx) + linear(x, centre - edge)[:, :, None]
        return leaky_relu(self.norm(hidden).amax(2), SLOPE)


@ZOO.register_network("dgcnn", MODELS)
class DGCNNClassifier(CoordinateNetwork):
    """DGCNN's classifier: (B, N, 6) points and unit normals -> (B, num_classes) logits, for any N >= k.

    Args:
        num_classes: classes.
        in_channels: 6, or 3 to take coordinates only, as published. The first graph joins the nearest
            coordinates either way.
        k: neighbours of a point, itself among them; 20 is published for 1024 points.
        channels: of the edge convolutions.
        embed_channels: of the points' joined outputs, before the maximum and the mean over the points.
        head_dims, dropout: hidden widths of the classifying head, and the dropout after each.

    Raises:
        ValueError: points of the wrong shape, fewer than k, NaN or infinity.
    """

    title = "DGCNN"
    folder = "baselines"
    paper = (
        'Wang, Sun, Liu, Sarma, Bronstein, Solomon, "Dynamic Graph CNN for Learning on Point Clouds", '
        "ACM Transactions on Graphics 2019, arXiv 1801.07829"
    )
    code = "WangYueFt/dgcnn"
    licence = "MIT"
    archs = {"cls": {}}
    num_parameters = {"cls": 1_809_704}

    def __init__(
        self,
        num_classes: int = 40,
        *,
        in_channels: int = 6,
        k: int = 20,
        channels: tuple[int, ...] = (64, 64, 128, 256),
        embed_channels: int = 1024,
        head_dims: tuple[int, ...] = (512, 256),
        dropout: float = 0.5,
    ):
        super().__init__()
        check_in_channels(in_channels)
        self.in_channels, self.k = in_channels, k
        self.convs = nn.ModuleList(
            EdgeConv(before, after) for before, after in zip([in_channels, *channels], channels, strict=False)
        )
        self.embedding = mlp(sum(channels), embed_channels, activation=LeakyReLU)
        self.head = classification_head(2 * embed_channels, head_dims, num_classes, dropout, LeakyReLU)

    def forward(self, points: Tensor) -> Tensor:
        x = check_inputs(points, self.in_channels, self.k)
        xyz = x[..., :3]
        idx, _ = knn(xyz, xyz, self.k)
        outputs = []
        for conv in self.convs:
            if outputs:
                idx = feature_neighbours(x, self.k)
            x = conv(x, idx)
            outputs.append(x)
        x = self.embedding(torch.cat(outputs, -1))
        return self.head(torch.cat([x.amax(1), x.mean(1)], -1))
