"""From a file to what a classifier is fed. Images are uint8 (H, W, 3) in the order red, green, blue.

mmcv's transforms (Resize, CenterCrop, RandomFlip, ...), which importing this registers, stand between ours.
Random numbers come from Python's generator, mmcv's from NumPy's; datasets seed both for each sample.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log

import mmcv.transforms  # noqa: F401  registers them
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from ..registry import TRANSFORMS
from .sample import ImageDataSample


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandomResizedCrop:
    """Cut out a random box of the image and resize it, by Pillow, to a square.

    Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015. Where ten draws do not fit into the
    image, the box is the largest one in its middle whose aspect is in the range.

    Args:
        size: pixels to a side of the result.
        area: range of the box's share of the image.
        aspect: width to height of the box, between this and its inverse.
        interpolation: "bicubic", "bilinear", "nearest", ...; all but the last see every pixel of the box.
    """

    size: int
    area: tuple[float, float] = (0.08, 1.0)
    aspect: float = 4 / 3
    interpolation: str = "bicubic"

    def __call__(self, sample: dict) -> dict:
        x, y, width, height = self._box(*sample["img"].shape[1::-1])
        image = Image.fromarray(sample["img"][y : y + height, x : x + width])
        resample = Image.Resampling[self.interpolation.upper()]
        resized = np.asarray(image.resize((self.size, self.size), resample))
        return {**sample, "img": resized, "img_shape": resized.shape[:2]}

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = random.uniform(*self.area) * width * height
            aspect = exp(random.uniform(-1, 1) * log(self.aspect))
            w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                return random.randint(0, width - w), random.randint(0, height - h), w, h
        w = max(1, min(width, round(height * self.aspect)))
        h = max(1, min(height, round(width * self.aspect)))
        return (width - w) // 2, (height - h) // 2, w, h


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandomPadCrop:
    """Put a black border around the image, then cut out a random square.

    Args:
        size: pixels to a side of the result.
        padding: width of the border.

    Raises:
        ValueError: the image with its border is smaller than that.
    """

    size: int
    padding: int = 0

    def __call__(self, sample: dict) -> dict:
        border = (self.padding, self.padding)
        image = np.pad(sample["img"], (border, border, (0, 0)))
        height, width = image.shape[:2]
        if min(height, width) < self.size:
            raise ValueError(
                f"found an image of {height} x {width} pixels with its border, wanted at least {self.size}"
            )
        y, x = random.randint(0, height - self.size), random.randint(0, width - self.size)
        image = image[y : y + self.size, x : x + self.size]
        return {**sample, "img": image, "img_shape": image.shape[:2]}


def _affine(*matrix: float) -> Callable[[Image.Image, tuple[int, int, int]], Image.Image]:
    """Output pixel (x, y) is input pixel (a x + b y + c, d x + e y + f)."""

    def apply(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
        a, b, c, d, e, f = matrix
        matrix_in_pixels = (a, b, c * image.width, d, e, f * image.height)
        return image.transform(
            image.size, Image.Transform.AFFINE, matrix_in_pixels, Image.Resampling.BICUBIC, fillcolor=fill
        )

    return apply


def _enhance(kind: type) -> Callable:
    return lambda image, level, sign, fill: kind(image).enhance(1 + sign * 0.9 * level)


# (image, level in 0..1, sign, colour of what comes in from outside) -> image; a higher level changes more
OPERATIONS: dict[str, Callable[[Image.Image, float, int, tuple[int, int, int]], Image.Image]] = {
    "autocontrast": lambda image, level, sign, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, level, sign, fill: ImageOps.equalize(image),
    "invert": lambda image, level, sign, fill: ImageOps.invert(image),
    "rotate": lambda image, level, sign, fill: image.rotate(
        sign * 30 * level, Image.Resampling.BICUBIC, fillcolor=fill
    ),
    "posterize": lambda image, level, sign, fill: ImageOps.posterize(image, max(1, 8 - round(4 * level))),
    "solarize": lambda image, level, sign, fill: ImageOps.solarize(image, round(256 * (1 - level))),
    "solarize_add": lambda image, level, sign, fill: image.point(
        lambda value: min(255, value + round(110 * level)) if value < 128 else value
    ),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, level, sign, fill: _affine(1, sign * 0.3 * level, 0, 0, 1, 0)(image, fill),
    "shear_y": lambda image, level, sign, fill: _affine(1, 0, 0, sign * 0.3 * level, 1, 0)(image, fill),
    "translate_x": lambda image, level, sign, fill: _affine(1, 0, sign * 0.45 * level, 0, 1, 0)(image, fill),
    "translate_y": lambda image, level, sign, fill: _affine(1, 0, 0, 0, 1, sign * 0.45 * level)(image, fill),
}


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandAugment:
    """Draw ``num`` of :data:`OPERATIONS`; each is done with probability ``prob``, at a random level.

    Source: Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space",
    CVPR Workshops 2020, with levels that are drawn anew for each operation and all of which change more the
    higher they are. (mmdet's RandAugment has neither.)

    Args:
        num: operations drawn for an image, with replacement.
        magnitude: mean of the level, 0 to 10.
        std: standard deviation of the level; what falls outside 0..10 is clipped.
        prob: of each operation.
        fill: red, green and blue of what comes in from outside, by default the mean of ImageNet.
    """

    num: int = 2
    magnitude: float = 9
    std: float = 0.5
    prob: float = 0.5
    fill: tuple[int, int, int] = (124, 116, 104)

    def __call__(self, sample: dict) -> dict:
        image = Image.fromarray(sample["img"])
        for name in random.choices(list(OPERATIONS), k=self.num):
            if random.random() < self.prob:
                level = min(max(random.gauss(self.magnitude, self.std), 0), 10) / 10
                image = OPERATIONS[name](image, level, random.choice((-1, 1)), tuple(self.fill))
        return {**sample, "img": np.asarray(image)}


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandomRotation:
    """Turn the image about its middle by an angle drawn evenly; black comes in at the corners.

    Args:
        degrees: the largest angle, either way.
        interpolation: "nearest", "bilinear" or "bicubic".
    """

    degrees: float
    interpolation: str = "nearest"

    def __call__(self, sample: dict) -> dict:
        resample = Image.Resampling[self.interpolation.upper()]
        angle = random.uniform(-self.degrees, self.degrees)
        return {**sample, "img": np.asarray(Image.fromarray(sample["img"]).rotate(angle, resample))}


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast and saturation by a factor each, and hues by a shift, in a drawn order.

    Args:
        brightness, contrast, saturation: a factor is drawn evenly from 1 - this (0 at least) to 1 + this.
        hue: shift is drawn evenly from -this to this, in turns of the circle of colours; at most 0.5.

    Raises:
        ValueError: a negative number, or a hue above 0.5.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self):
        values = (self.brightness, self.contrast, self.saturation, self.hue)
        if min(values) < 0 or self.hue > 0.5:
            raise ValueError(f"ColorJitter wants numbers of at least 0, of hue up to 0.5, found {values}")

    def __call__(self, sample: dict) -> dict:
        image = Image.fromarray(sample["img"])
        steps = [
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
            (None, self.hue),
        ]
        for kind, most in random.sample(steps, len(steps)):
            if most == 0:
                continue
            if kind is None:
                image = _shift_hue(image, random.uniform(-most, most))
            else:
                image = kind(image).enhance(random.uniform(max(0.0, 1 - most), 1 + most))
        return {**sample, "img": np.asarray(image)}


def _shift_hue(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shifted = np.asarray(hue).astype(np.int16) + round(255 * turns)
    hue = Image.fromarray((shifted % 256).astype(np.uint8))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandomBlur:
    """Gaussian blur by a kernel of 3 x 3 pixels whose width is drawn evenly; mirrored at the border.

    Args:
        sigma: range of the standard deviation, in pixels.
    """

    sigma: tuple[float, float] = (0.1, 2.0)

    def __call__(self, sample: dict) -> dict:
        side = exp(-0.5 / random.uniform(*self.sigma) ** 2)
        weights = np.array([side, 1, side]) / (1 + 2 * side)
        image = sample["img"].astype(np.float32)
        for axis in (0, 1):
            if image.shape[axis] > 1:
                margin = [(1, 1) if i == axis else (0, 0) for i in range(3)]
                parts = np.pad(image, margin, "reflect")
                size = image.shape[axis]
                image = sum(w * parts.take(range(i, i + size), axis) for i, w in enumerate(weights))
        return {**sample, "img": image.round().clip(0, 255).astype(np.uint8)}


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class PackImage:
    """{"inputs": uint8 tensor (3, H, W); "data_samples": :class:`ImageDataSample`}."""

    def __call__(self, sample: dict) -> dict:
        image = sample["img"]
        metainfo = {key: sample[key] for key in ("img_path", "ori_shape") if key in sample}
        metainfo |= {"img_shape": image.shape[:2]}
        if "sample_idx" in sample:
            metainfo["index"] = sample["sample_idx"]
        data_sample = ImageDataSample(metainfo=metainfo)
        if "gt_label" in sample:
            data_sample.gt_label = torch.tensor(sample["gt_label"])
        inputs = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return {"inputs": inputs, "data_samples": data_sample}
