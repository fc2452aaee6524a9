"""Downsamplings of pyramids with layer norms."""

from torch import Tensor, nn

from ..ops import complete
from .layer_norm import LayerNorm2d
from .linear import Linear


class ConvLayerNorm(nn.Module):
    """Convolution, layer norm: (B, in_channels, H, W) to (B, out_channels, H', W'), channels last in memory.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: of the convolution.
        norm_eps: of the norm.
        rounds_up: zeros complete sides that are no multiples of the stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        *,
        norm_eps: float = 1e-5,
        rounds_up: bool = True,
    ):
        super().__init__()
        self.stride = stride if rounds_up else 1
        self.proj = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.norm = LayerNorm2d(out_channels, norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(complete(x, self.stride)))


class PatchMerging(nn.Module):
    """Norm, convolution of stride 2: (B, in_channels, H, W) to (B, out_channels, H / 2, W / 2), rounded up.

    Args:
        in_channels, out_channels: of the maps.
        overlapped: patches of 3x3 pixels instead of 2x2.
        norm_eps: of the norm.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, overlapped: bool = False, norm_eps: float = 1e-5
    ):
        super().__init__()
        self.norm = LayerNorm2d(in_channels, norm_eps)
        kernel_size, padding = (3, 1) if overlapped else (2, 0)
        self.proj = nn.Conv2d(in_channels, out_channels, kernel_size, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(complete(self.norm(x), 2))


class SwinPatchMerging(nn.Module):
    """2x2 pixels beside each other, norm, Linear: (B, in_channels, H, W) to (B, out_channels, H / 2, W / 2).

    Zeros complete odd sides. Source: Liu et al., "Swin Transformer", ICCV 2021, arXiv 2103.14030.

    Args:
        in_channels, out_channels: of the maps.
        norm_eps: of the norm.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm_eps: float = 1e-5):
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_channels, norm_eps)
        self.reduction = Linear(4 * in_channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = complete(x, 2).permute(0, 2, 3, 1)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, 2, W / 2, 2, C)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # columns of a patch are the slower index
        return self.reduction(self.norm(x)).permute(0, 3, 1, 2)
