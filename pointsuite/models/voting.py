"""Test-time augmentation: one network's opinion of a cloud at several scales."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Votes:
    """Mean of a network's class probabilities over scaled copies of the clouds.

    The scales are the middles of `num` equal parts of (low, high), not random: a prediction is the same on
    every call, and depends on its own cloud only.

    Args:
        num: of copies; 1 with equal bounds of 1 is the network's answer as it is.
        scale: the bounds, factors of xyz; normals stay.
    """

    num: int = 1
    scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self):
        low, high = self.scale
        if self.num < 1 or not 0 < low <= high < float("inf"):
            raise ValueError(f"votes: found {self}, wanted num >= 1 and scale 0 < low <= high")

    def scales(self) -> list[float]:
        low, high = self.scale
        return [low + (high - low) * (i + 0.5) / self.num for i in range(self.num)]

    def __call__(self, network: Callable[..., Tensor], points: Tensor, *args) -> Tensor:
        """Probabilities, float32, in the shape of network(points, *args).

        Args:
            network: (points, *args) -> logits (..., classes).
            points: (B, N, 3 or more), xyz first.
        """
        total = 0
        for scale in self.scales():
            factor = points.new_ones(points.shape[-1])
            factor[:3] = scale
            total = total + network(points * factor, *args).float().softmax(-1)
        return total / self.num
