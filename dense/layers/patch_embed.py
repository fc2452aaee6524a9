"""Patches of images as tokens."""

from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """A convolution of patches that do not overlap: (B, in_channels, H, W) to (B, C, H / size, W / size).

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021.

    Args:
        in_channels: of the images.
        embed_dims: C.
        patch_size: pixels to a side of a patch.

    Raises:
        ValueError: (of a call) sides that patches do not divide.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height % self.patch_size or width % self.patch_size or not (height and width):
            raise ValueError(
                f"sides of images must be multiples of {self.patch_size}, found {height} x {width}"
            )
        return self.proj(x)
