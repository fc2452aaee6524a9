"""How far predicted frames are from the true ones."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS

WINDOW = 11  # pixels
SIGMA = 1.5  # pixels
CONSTANTS = 0.01**2, 0.03**2  # of the SSIM, for numbers in 0..1


@MODELS.register_module()
class MiddleFrameLoss(nn.Module):
    """``(1 - share) * (1 - SSIM) + share * mean(G * |a - b|)`` of frames brought from [-1, 1] to [0, 1].

    G is a Gaussian window of 11 x 11 pixels (sigma 1.5), which the SSIM (Wang et al., 2004) uses, too; only
    whole windows count.

    Args:
        share: of the filtered difference, 0..1.
    """

    def __init__(self, share: float = 0.5):
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"share must be in 0..1, found {share}")
        self.share = share

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Loss of frames (..., C, H, W) in [-1, 1], H and W at least 11; a scalar."""
        ssim, difference = ssim_and_difference((prediction + 1) / 2, (target + 1) / 2)
        return (1 - self.share) * (1 - ssim) + self.share * difference


def ssim_and_difference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Mean structural similarity, and mean of the Gaussian-filtered absolute difference.

    Args:
        a, b: (..., H, W) floating in [0, 1].

    Returns:
        Two scalars.

    Raises:
        ValueError: shapes that differ, or are smaller than the window.
    """
    if a.shape != b.shape:
        raise ValueError(f"both images must have one shape, found {tuple(a.shape)} and {tuple(b.shape)}")
    if a.ndim < 2 or min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"images must be (..., H, W), H and W at least {WINDOW}, found {tuple(a.shape)}")
    offsets = torch.arange(WINDOW, dtype=a.dtype, device=a.device) - WINDOW // 2
    taps = (-(offsets**2) / (2 * SIGMA**2)).exp()
    taps = taps / taps.sum()

    def blur(x: Tensor) -> Tensor:
        x = x.reshape(-1, 1, *x.shape[-2:])
        return F.conv2d(F.conv2d(x, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))

    mean_a, mean_b = blur(a), blur(b)
    squares, product = mean_a**2 + mean_b**2, mean_a * mean_b
    variances = blur(a**2 + b**2) - squares  # their sum is all that is needed
    covariance = blur(a * b) - product
    first, second = CONSTANTS
    ssim = (2 * product + first) * (2 * covariance + second) / ((squares + first) * (variances + second))
    return ssim.mean(), blur((a - b).abs()).mean()
