"""How far restored images are from good ones, both (B, C, H, W) in 0..1."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss


def charbonnier_loss(pred: Tensor, gt: Tensor) -> Tensor:
    """The mean of sqrt(difference^2 + 1e-6): a smooth L1."""
    return ((pred - gt).square() + 1e-6).sqrt().mean()


def psnr_loss(pred: Tensor, gt: Tensor) -> Tensor:
    """Minus the PSNR in dB, its mean over the images of the batch."""
    return 10 * ((pred - gt).square().mean((1, 2, 3)) + 1e-8).log10().mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1_loss,
    "mse": mse_loss,
    "charbonnier": charbonnier_loss,
    "psnr": psnr_loss,
}
