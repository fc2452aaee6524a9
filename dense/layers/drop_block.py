"""DropBlock: squares of a map that training leaves out.

Source: Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", NeurIPS 2018, arXiv
1810.12890; in the form of Vir, arXiv 2510.15527: one mask for all channels, squares whose centres may lie
anywhere, so that the map's border cuts them, and no correction of their rate for it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DropBlock(nn.Module):
    """In training, squares of the map become 0, and what is left is scaled up: (B, C, H, W) to the same.

    A position is the centre of a square with probability ``rate / size**2``. The scale is the number of
    positions over that of those left, of each image by itself.

    Args:
        rate: about the share of positions that are left out; 0 for none.
        size: side of the squares, odd.
        reference_quirks: scale all images by the share that is left of the whole batch, as the published code
            does, so that an image's output depends on its neighbours.

    Raises:
        ValueError: a rate outside 0..1, or an even size.
    """

    def __init__(self, rate: float, size: int = 7, reference_quirks: bool = False):
        super().__init__()
        if not 0 <= rate <= 1:
            raise ValueError(f"rate of DropBlock must be in 0..1, found {rate}")
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size of DropBlock must be odd and positive, found {size}")
        self.rate, self.size, self.reference_quirks = rate, size, reference_quirks

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        return self.drop(x, torch.rand(len(x), 1, *x.shape[2:], device=x.device))

    def drop(self, x: Tensor, noise: Tensor) -> Tensor:
        """What it does to a map, given uniform noise (B, 1, H, W) of [0, 1)."""
        seeds = (noise < self.rate / self.size**2).float()
        keep = 1 - F.max_pool2d(seeds, self.size, 1, self.size // 2)
        left = keep.mean() if self.reference_quirks else keep.mean((1, 2, 3), keepdim=True)
        # published: numel / (sum + 1e-7)
        scale = 1 / (left + 1e-7 / (keep.numel() if self.reference_quirks else keep[0].numel()))
        return x * (keep * scale).to(x.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate}, size={self.size}"
