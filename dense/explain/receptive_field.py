"""The effective receptive field: of which pixels the middle of a backbone's last map really takes notice.

Luo, Li, Urtasun, Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
NeurIPS 2016, arXiv 1701.04128.
"""

import torch
from torch import Tensor, nn


def effective_receptive_field(network: nn.Module, images: Tensor, seed: int = 0) -> Tensor:
    """The gradient of the middle pixel of the last map by the pixels of the images.

    Of an image x and the map y, |d <y(middle), v> / d x|, summed over the colours, for a random direction v
    of the channels: their plain sum, which Luo et al. take, is constant behind a layer norm. The map's pixel
    is the lower right one of the four in the middle where the sides are even.

    Args:
        network: images (B, C, H, W) to maps (B, C', H', W'), one or a sequence, the last of which counts.
        images: (B, C, H, W) floats; random ones do.
        seed: of the directions.

    Returns:
        (H, W), the mean over the images, with the sum 1.

    Raises:
        ValueError: the network gives no map, or its middle does not depend on the images.
    """
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        output = network(images)
        last = output[-1] if isinstance(output, tuple | list) else output
        if not isinstance(last, Tensor) or last.ndim != 4:
            found = tuple(last.shape) if isinstance(last, Tensor) else type(last).__name__
            raise ValueError(f"the network gives {found}, wanted a map (B, C, H, W)")
        middle = last[:, :, last.shape[2] // 2, last.shape[3] // 2]  # (B, C')
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(middle.shape, generator=generator).to(middle)
        (gradient,) = torch.autograd.grad((middle * direction).sum(), images)
    field = gradient.abs().sum(1)
    total = field.sum((1, 2), keepdim=True)
    if not (total > 0).all():
        raise ValueError("the middle of the last map does not depend on the images")
    return (field / total).mean(0)


def covered_share(field: Tensor, part: float = 0.5) -> float:
    """The least share of all pixels that hold ``part`` of a field (H, W) of numbers of at least 0.

    An even field gives ``part``, a single pixel 1 / (H * W).
    """
    if not 0 < part <= 1:
        raise ValueError(f"part must be above 0 and at most 1, found {part}")
    held = field.flatten().double().sort(descending=True).values.cumsum(0)
    wanted = part * held[-1] * (1 - 1e-12)  # sums are rounded
    return (int((held < wanted).sum()) + 1) / held.numel()


@torch.no_grad()
def open_branches(network: nn.Module, images: Tensor) -> nn.Module:
    """Let random weights show what a network can see, and return it in evaluation mode.

    Factors of branches that start near 0, as layer scales of 1e-6, become 1, else the field is the stem's;
    batch norms get the statistics of ``images``, else a deep network's numbers grow or fade.
    """
    for parameter in network.parameters():
        if parameter.ndim == 1 and 0 < parameter.min() == parameter.max() < 0.1:
            parameter.fill_(1.0)
    momenta = {m: m.momentum for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    for norm in momenta:
        norm.momentum = 1.0
    network.train()(images)
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    return network.eval()
