"""Small images, and a small network, for the tests of restoration."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from dense.registry import MODELS


def make_image(rng, height, width, channels=3):
    """A smooth picture with noise: uint8 (height, width, channels), or (height, width) for one channel."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (3 + i) + y / (5 - i)) for i in range(channels)]
    image = 128 + 80 * np.stack(waves, -1) + rng.normal(0, 5, (height, width, channels))
    image = np.clip(image, 0, 255).astype(np.uint8)
    return image if channels > 1 else image[..., 0]


def write_images(folder, count, size=(40, 52), channels=3):
    rng = np.random.default_rng(count)
    folder.mkdir(parents=True)
    for i in range(count):
        image = make_image(rng, size[0] + i, size[1] - i, channels)
        Image.fromarray(image).save(folder / f"{i}.png")


@MODELS.register_module()
class ToyUpscaler(nn.Module):
    """Pixels repeated, times a factor that is learnt."""

    def __init__(self, scale=2, in_channels=3, multiple=4):
        super().__init__()
        self.scale, self.in_channels, self.multiple = scale, in_channels, multiple
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x):
        assert (
            x.shape[1] == self.in_channels and x.shape[2] % self.multiple == x.shape[3] % self.multiple == 0
        )
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3) * self.factor
