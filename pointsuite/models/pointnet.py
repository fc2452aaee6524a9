"""PointNet: one MLP shared by all points, and their maximum.

Paper: Qi, Su, Mo, Guibas, "PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation",
CVPR 2017, arXiv 1612.00593.
Published code: charlesq34/pointnet (TensorFlow), MIT. This is an independent implementation.
"""

import torch
from torch import Tensor, nn

from pointsuite.engine.zoo import ZOO
from pointsuite.layers import check_in_channels, check_inputs, classification_head, mlp
from pointsuite.registry import MODELS

from .base import CoordinateNetwork


class TransformNet(nn.Module):
    """A matrix for each cloud, near the identity at first: (B, N, in_channels) -> (B, dims, dims)."""

    def __init__(self, in_channels: int, dims: int, channels: tuple[int, ...], hidden: tuple[int, ...]):
        super().__init__()
        self.dims = dims
        self.points = mlp(in_channels, *channels)
        self.hidden = mlp(channels[-1], *hidden)
        self.matrix = nn.Linear(hidden[-1], dims * dims)
        nn.init.normal_(self.matrix.weight, std=1e-3)  # zero would leave the layers before without gradient
        with torch.no_grad():
            self.matrix.bias.copy_(torch.eye(dims).flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix(self.hidden(self.points(x).amax(1))).unflatten(1, (self.dims, self.dims))


@ZOO.register_network("pointnet", MODELS)
class PointNetClassifier(CoordinateNetwork):
    """PointNet's classifier: (B, N, 6) points and unit normals -> (B, num_classes) logits, for any N >= 1.

    Args:
        num_classes: classes.
        in_channels: 6, or 3 to take coordinates only, as published. The input transform reads all channels;
            its matrix is applied to coordinates and normals alike.
        channels: of the MLP before the feature transform.
        global_channels: of the MLP after it, whose maximum over the points describes the cloud.
        transform_channels, transform_hidden: of both transform nets, before and after their maximum.
        head_dims, dropout: hidden widths of the classifying head, and the dropout after each.
        regularizer_weight: of the feature transform's distance from an orthogonal matrix in the loss.

    Raises:
        ValueError: points of the wrong shape, NaN or infinity.
    """

    title = "PointNet"
    folder = "baselines"
    paper = (
        'Qi, Su, Mo, Guibas, "PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation", '
        "CVPR 2017, arXiv 1612.00593"
    )
    code = "charlesq34/pointnet"
    licence = "MIT"
    archs = {"cls": {}}
    num_parameters = {"cls": 3_474_353}

    def __init__(
        self,
        num_classes: int = 40,
        *,
        in_channels: int = 6,
        channels: tuple[int, ...] = (64, 64),
        global_channels: tuple[int, ...] = (64, 128, 1024),
        transform_channels: tuple[int, ...] = (64, 128, 1024),
        transform_hidden: tuple[int, ...] = (512, 256),
        head_dims: tuple[int, ...] = (512, 256),
        dropout: float = 0.3,
        regularizer_weight: float = 1e-3,
    ):
        super().__init__()
        check_in_channels(in_channels)
        self.in_channels, self.regularizer_weight = in_channels, regularizer_weight
        self.input_transform = TransformNet(in_channels, 3, transform_channels, transform_hidden)
        self.local = mlp(in_channels, *channels)
        self.feature_transform = TransformNet(
            channels[-1], channels[-1], transform_channels, transform_hidden
        )
        self.globals = mlp(channels[-1], *global_channels)
        self.head = classification_head(global_channels[-1], head_dims, num_classes, dropout)

    def _forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        points = check_inputs(points, self.in_channels)
        turn = self.input_transform(points)[:, None]
        x = (points.unflatten(-1, (-1, 3)) @ turn).flatten(-2)
        x = self.local(x)
        transform = self.feature_transform(x)
        return self.head(self.globals(x @ transform).amax(1)), transform

    def forward(self, points: Tensor) -> Tensor:
        return self._forward(points)[0]

    def forward_losses(self, points: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the regulariser of the feature transforms A: the mean of |I - A A^T|^2 (Frobenius)."""
        logits, transform = self._forward(points)
        with torch.autocast(points.device.type, enabled=False):
            matrix = transform.to(torch.promote_types(transform.dtype, torch.float32))
            rest = torch.eye(matrix.shape[-1]).to(matrix) - matrix @ matrix.mT
            return logits, {"loss_transform": self.regularizer_weight * rest.square().sum((1, 2)).mean()}
