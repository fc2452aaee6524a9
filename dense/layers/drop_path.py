"""Stochastic depth."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates of the blocks of each stage, which rise linearly from 0 to ``last`` over all of them."""
    rates = torch.linspace(0, last, sum(depths), device="cpu").tolist()
    return [[rates.pop(0) for _ in range(depth)] for depth in depths]


class DropPath(nn.Module):
    """Drop the whole branch of a sample, in training, and scale what is kept to the same mean.

    Shapes: any (B, ...) to the same. Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.

    Args:
        rate: probability that a sample's branch is dropped, 0 <= rate < 1.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be at least 0 and below 1, found {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}"
