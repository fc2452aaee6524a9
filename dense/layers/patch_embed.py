"""Patches of images as tokens."""

from torch import Tensor, nn

from .conv_norm import ConvNorm


class PatchEmbed(nn.Module):
    """A convolution of patches that do not overlap: (B, in_channels, H, W) to (B, C, H / size, W / size).

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021.

    Args:
        in_channels: of the images.
        embed_dims: C.
        patch_size: pixels to a side of a patch.
        proj: another stem of that stride in the convolution's place.

    Raises:
        ValueError: (of a call) sides that patches do not divide.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int, proj: nn.Module | None = None):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size) if proj is None else proj

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height % self.patch_size or width % self.patch_size or not (height and width):
            raise ValueError(
                f"sides of images must be multiples of {self.patch_size}, found {height} x {width}"
            )
        return self.proj(x)


class ConvStem(nn.Module):
    """Three normed convolutions, the first of stride 2, then patches: (B, in_channels, H, W) to (B, C, h, w).

    Source: Jiang et al., "All Tokens Matter: Token Labeling for Training Better Vision Transformers", NeurIPS
    2021, arXiv 2104.10858.

    Args:
        in_channels: of the images.
        width: of the convolutions.
        embed_dims: C.
        patch_size: pixels of the image to a side of a patch: strides of so many in all, rounded down.
    """

    def __init__(self, in_channels: int, width: int, embed_dims: int, patch_size: int):
        super().__init__()
        first = ConvNorm(in_channels, width, 7, 2, 3)
        self.convs = nn.ModuleList([first, *[ConvNorm(width, width, 3, 1, 1) for _ in range(2)]])
        self.proj = nn.Conv2d(width, embed_dims, patch_size // 2, patch_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, "relu")
        return self.proj(x)
