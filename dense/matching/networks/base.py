"""What networks of matching share."""

import torch
from torch import Tensor, nn


class PairNetwork(nn.Module):
    """Two batches of images (B, 3, H, W), source and target, to flows.

    Called, a network returns a list of flows, coarse to fine, each (B, 2, g, g) on the target's grid, x and y
    in cells, pointing to the source; ``match(source, target)`` is the flow to predict with and its
    confidence (B, g, g).
    """

    def init_weights(self) -> None:
        """Load or initialise a backbone as its ``init_cfg`` says; all else is initialised when built."""
        for part in self.children():
            if hasattr(part, "init_weights"):
                part.init_weights()

    def check_pair(self, source: Tensor, target: Tensor) -> None:
        """Raise ValueError for what are no two batches of images of one size that the network takes."""
        if source.shape != target.shape or source.ndim != 4:
            raise ValueError(
                f"source and target must both be (B, 3, H, W) of one size, found {tuple(source.shape)} and "
                f"{tuple(target.shape)}"
            )

    def example_inputs(self, batch: int = 2, size: tuple[int, int] = (256, 256)) -> tuple[Tensor, Tensor]:
        """Random images, a source and a target each."""
        return torch.randn(batch, 3, *size), torch.randn(batch, 3, *size)
