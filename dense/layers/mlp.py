"""The two-layer MLP of transformer blocks."""

from torch import Tensor, nn

from .linear import Linear


class MLP(nn.Module):
    """Linear, GELU (exact), Linear: (..., C) to the same shape.

    Args:
        embed_dims: C.
        hidden_dims: width between the layers.
    """

    def __init__(self, embed_dims: int, hidden_dims: int):
        super().__init__()
        self.fc1 = Linear(embed_dims, hidden_dims)
        self.fc2 = Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x, activation="gelu"))
