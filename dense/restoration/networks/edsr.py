"""EDSR: residual blocks of plain convolutions, the usual baseline of super-resolution.

Lim, Son, Kim, Nah, Lee, "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPR Workshops
2017 (arXiv 1707.02921). Published code: sanghyun-son/EDSR-PyTorch, MIT. Built from the paper.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...registry import MODELS, ZOO
from .base import RestorationNetwork

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K
FACTORS = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}  # of an upsampler's steps, by its scale


def make_upsampler(channels: int, scale: int) -> nn.Sequential:
    """(B, channels, h, w) to (B, channels, scale * h, scale * w), by convolutions and pixel shuffles."""
    steps = []
    for factor in FACTORS[scale]:
        steps += [nn.Conv2d(channels, factor**2 * channels, 3, padding=1), nn.PixelShuffle(factor)]
    return nn.Sequential(*steps)


class ResidualBlock(nn.Module):
    """(B, C, H, W) to such: convolution, ReLU, convolution, times a constant, plus the input; no norm."""

    def __init__(self, channels: int, scaling: float):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.scaling = scaling

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scaling * self.conv2(self.conv1(x).relu())


@ZOO.register_network("edsr", MODELS)
class EDSR(RestorationNetwork):
    """Images (B, C, h, w) in 0..1, of any size, to (B, C, scale * h, scale * w).

    Args:
        arch: "baseline" (16 blocks of 64 channels), "edsr" (32 of 256, scaled by 0.1), "s" (8 of 32, a size
            of ours for CPUs), or a mapping with ``channels``, ``depth`` and ``scaling``.
        scale: 1, 2, 3 or 4. With 1 there is no upsampler, and the image is added to the output.
        in_channels: of the images; the mean colour is taken off those of 3.
    """

    paper = (
        'Lim, Son, Kim, Nah, Lee, "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPR '
        "Workshops 2017, arXiv 1707.02921"
    )
    code = "sanghyun-son/EDSR-PyTorch"
    licence = "MIT"
    archs = {
        "s": {"channels": 32, "depth": 8, "scaling": 1.0},  # for CPUs
        "baseline": {"channels": 64, "depth": 16, "scaling": 1.0},
        "edsr": {"channels": 256, "depth": 32, "scaling": 0.1},
    }
    num_parameters = {"s": 195_971, "baseline": 1_369_859, "edsr": 40_729_603}  # x2
    example_sizes = ((32, 32), (48, 32))
    example_arch = {"channels": 8}
    exempt = {"packs": "no published weights are read"}

    def __init__(self, arch: str | Mapping[str, Any] = "baseline", scale: int = 2, in_channels: int = 3):
        super().__init__()
        arch = self.find_arch(arch)
        if scale not in (1, 2, 3, 4):
            raise ValueError(f"scale must be 1, 2, 3 or 4, found {scale}")
        self.scale, self.in_channels = scale, in_channels
        channels = arch["channels"]
        mean = RGB_MEAN if in_channels == 3 else (0.0,) * in_channels
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.blocks = nn.Sequential(
            *(ResidualBlock(channels, arch["scaling"]) for _ in range(arch["depth"])),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.upsampler = make_upsampler(channels, scale)
        self.last = nn.Conv2d(channels, in_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        self.check_images(x)
        features = self.first(x - self.mean)
        features = features + self.blocks(features)
        y = self.last(self.upsampler(features))  # (B, C, scale * h, scale * w)
        return x + y if self.scale == 1 else y + self.mean
