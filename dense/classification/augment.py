"""Augmentation of whole batches, on the model's device: normalised images and soft targets to the same.

Random numbers come from Python's generator, whose state checkpoints keep.
"""

import random
from math import exp, log

import torch
from torch import Tensor, nn

from ..registry import MODELS


@MODELS.register_module()
class Mixup(nn.Module):
    """Mix every image with its mirror in the order of the batch: whole images (mixup) or a box (CutMix).

    One draw decides for the whole batch. Targets are mixed by the share of each image.

    Sources: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix:
    Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.

    Args:
        mixup, cutmix: a of the distribution Beta(a, a) of the share; 0 switches one off.
        switch: probability of CutMix where both are on.
        prob: probability that a batch is mixed at all.
    """

    def __init__(self, mixup: float = 0.8, cutmix: float = 1.0, switch: float = 0.5, prob: float = 1.0):
        super().__init__()
        if min(mixup, cutmix) < 0 or max(mixup, cutmix) == 0:
            raise ValueError(f"mixup and cutmix must not be negative nor both 0, found {mixup} and {cutmix}")
        self.mixup, self.cutmix, self.switch, self.prob = mixup, cutmix, switch, prob

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if random.random() >= self.prob:
            return images, targets
        if self.cutmix and (not self.mixup or random.random() < self.switch):
            share = random.betavariate(self.cutmix, self.cutmix)
            images, share = self._paste(images, share)
        else:
            share = random.betavariate(self.mixup, self.mixup)
            images = torch.lerp(images.flip(0), images, share)
        return images, torch.lerp(targets.flip(0), targets, share)

    @staticmethod
    def _paste(images: Tensor, share: float) -> tuple[Tensor, float]:
        """A box of the other image's pixels, cut at the border, and the share that is left of the first."""
        height, width = images.shape[2:]
        half_height, half_width = (int(side * (1 - share) ** 0.5) // 2 for side in (height, width))
        y, x = random.randrange(height), random.randrange(width)
        rows = slice(max(y - half_height, 0), y + half_height)
        columns = slice(max(x - half_width, 0), x + half_width)
        mixed = images.clone()
        mixed[..., rows, columns] = images.flip(0)[..., rows, columns]
        return mixed, 1 - mixed[0, 0, rows, columns].numel() / (height * width)

    def extra_repr(self) -> str:
        return f"mixup={self.mixup}, cutmix={self.cutmix}, switch={self.switch}, prob={self.prob}"


@MODELS.register_module()
class RandomErasing(nn.Module):
    """Fill a box of some images with normal noise, each pixel and channel for itself.

    Source: Zhong et al., "Random Erasing Data Augmentation", AAAI 2020.

    Args:
        prob: probability of each image.
        area: range of the box's share of the image.
        aspect: height to width of the box, between this and its inverse.
    """

    def __init__(self, prob: float = 0.25, area: tuple[float, float] = (0.02, 1 / 3), aspect: float = 0.3):
        super().__init__()
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"area must ascend within 0..1, found {tuple(area)}")
        if not aspect > 0:
            raise ValueError(f"aspect must be above 0, found {aspect}")
        self.prob, self.area, self.aspect = prob, tuple(area), aspect

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        images = images.clone()
        for image in images:
            if random.random() < self.prob:
                box = self._box(*image.shape[1:])
                image[box] = torch.randn_like(image[box])
        return images, targets

    def _box(self, height: int, width: int) -> tuple[slice, slice, slice]:
        """Index of a random box within an image; an empty one if ten draws do not fit into it."""
        for _ in range(10):
            area = random.uniform(*self.area) * height * width
            aspect = exp(random.uniform(-1, 1) * log(self.aspect))
            h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if h <= height and w <= width:
                y, x = random.randint(0, height - h), random.randint(0, width - w)
                return slice(None), slice(y, y + h), slice(x, x + w)
        return slice(None), slice(0), slice(0)

    def extra_repr(self) -> str:
        return f"prob={self.prob}, area={self.area}, aspect={self.aspect}"
