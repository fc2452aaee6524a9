"""What is done to pairs of a poor and a good image; :mod:`~dense.restoration.datasets` says what they are.

Random numbers come from Python's generator, which data sets seed for each sample.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..registry import TRANSFORMS
from .degradations import add_noise, compress_jpeg
from .sample import RestorationSample


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandomPatch:
    """The same random square of both images, ``size`` pixels to a side in the poor one.

    Raises:
        OSError: the poor image is smaller.
    """

    size: int

    def __call__(self, sample: dict) -> dict:
        gt, lq = sample["gt"], sample["lq"]
        height, width = lq.shape[:2]
        if min(height, width) < self.size:
            raise OSError(
                f"{sample['img_path']}: found {height} x {width} pixels in the poor image, "
                f"wanted {self.size} or more"
            )
        scale = gt.shape[0] // height
        y, x = random.randint(0, height - self.size), random.randint(0, width - self.size)
        return {
            **sample,
            "lq": lq[y : y + self.size, x : x + self.size],
            "gt": gt[scale * y : scale * (y + self.size), scale * x : scale * (x + self.size)],
        }


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandomFlipRotate:
    """One of the eight ways in which a square can lie, each as likely, for both images."""

    def __call__(self, sample: dict) -> dict:
        across, down, turned = (random.random() < 0.5 for _ in range(3))
        step = slice(None, None, -1 if down else 1), slice(None, None, -1 if across else 1)
        moved = {key: sample[key][step] for key in ("gt", "lq")}
        return {**sample, **({k: v.swapaxes(0, 1) for k, v in moved.items()} if turned else moved)}


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class AddNoise:
    """Gaussian noise in the poor image, drawn anew at each call; the image becomes float32, not clipped.

    Args:
        sigma: standard deviation on the scale 0..255, or a range in which it is uniform.
    """

    sigma: float | tuple[float, float] = 25.0

    def __call__(self, sample: dict) -> dict:
        rng = np.random.default_rng(random.getrandbits(64))
        sigma = self.sigma if isinstance(self.sigma, (int, float)) else rng.uniform(*self.sigma)
        return {**sample, "lq": add_noise(sample["lq"], sigma, rng)}


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class CompressJPEG:
    """The poor image after JPEG.

    Args:
        quality: 1..100, or a range, both ends included, of which one is drawn at each call.
    """

    quality: int | tuple[int, int] = 40

    def __call__(self, sample: dict) -> dict:
        quality = self.quality if isinstance(self.quality, int) else random.randint(*self.quality)
        return {**sample, "lq": compress_jpeg(sample["lq"], quality)}


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class PackRestoration:
    """A sample as models want it: ``inputs`` tensor (C, h, w) and ``data_samples``."""

    def __call__(self, sample: dict) -> dict:
        metainfo = {
            "index": sample["sample_idx"],
            "img_path": sample["img_path"],
            "dataset": sample["dataset"],
        }
        data_sample = RestorationSample(gt=_to_tensor(sample["gt"]), metainfo=metainfo)
        return {"inputs": _to_tensor(sample["lq"]), "data_samples": data_sample}


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy())
