"""The usual classification head."""

from torch import Tensor, nn


class PooledLinear(nn.Module):
    """Mean over positions, norm, Linear: (B, C, H, W) to (B, num_classes).

    Args:
        in_channels: C.
        num_classes: number of logits.
        norm: module on (B, C), after the mean; none by default.
    """

    def __init__(self, in_channels: int, num_classes: int, norm: nn.Module | None = None):
        super().__init__()
        self.norm = nn.Identity() if norm is None else norm
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(x.mean((2, 3))))
