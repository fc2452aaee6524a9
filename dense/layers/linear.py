"""Linear layer of the last axis."""

from torch import Tensor, nn

from ..ops import linear


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`dense.ops.linear`: (..., in_features) to (..., out_features).

    Called with an ``activation`` or ``times`` it goes on as that function does.
    """

    def forward(self, x: Tensor, *, activation: str | None = None, times: Tensor | None = None) -> Tensor:
        return linear(x, self.weight, self.bias, activation=activation, times=times)
