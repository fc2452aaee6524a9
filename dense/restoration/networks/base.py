"""What networks of restoration share."""

import torch
from torch import Tensor, nn

from pointsuite.engine.network import Network


class RestorationNetwork(Network, nn.Module):
    """Images (B, in_channels, h, w) in 0..1 to (B, in_channels, scale * h, scale * w).

    Attributes:
        in_channels: of the images: 1 grey, 3 colour.
        scale: pixels of the result to one of the image, along each side.
        multiple: divides the sides of images.
    """

    in_channels = 3
    scale = 1
    multiple = 1

    def check_images(self, x: Tensor) -> None:
        """Raise ValueError for what is no batch of images that the network takes."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"images must be (B, {self.in_channels}, h, w), found {tuple(x.shape)}")
        height, width = x.shape[2:]
        if height % self.multiple or width % self.multiple or not x.numel():
            raise ValueError(
                f"sides of images must be multiples of {self.multiple}, found {height} x {width}; "
                "dense.restoration.tiling.restore pads them"
            )

    def example_inputs(self, batch: int = 2, size: tuple[int, int] = (64, 64)) -> tuple[Tensor]:
        """Random images, of that size completed to what the network takes."""
        sides = (-(-side // self.multiple) * self.multiple for side in size)
        return (torch.rand(batch, self.in_channels, *sides),)
