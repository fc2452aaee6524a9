"""From two files to what a matcher is fed. Images are uint8 (H, W, 3) RGB; points are x, y in pixels.

Random numbers come from Python's generator, which data sets seed for each sample.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from pointsuite.engine.images import read_rgb

from ..registry import TRANSFORMS
from .sample import MatchDataSample

SIDES = ("source", "target")
BEYOND = 0.05  # published annotations may lie a little outside of their image, as a share of its side


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class LoadPair:
    """``source_path`` and ``target_path`` to ``source_img`` and ``target_img``; mirrors what is to be.

    A mirrored x becomes width - x, as published (and not width - 1 - x).

    Raises:
        OSError: an image cannot be read, or a keypoint lies outside of it; the message names the file.
    """

    def __call__(self, sample: dict) -> dict:
        sample = dict(sample)
        for side in SIDES:
            path, points = sample[f"{side}_path"], sample.get(f"{side}_points")
            image = read_rgb(path)
            height, width = image.shape[:2]
            if points is not None:
                size = np.array((width, height), np.float32)
                wrong = ((points < -BEYOND * size) | (points > (1 + BEYOND) * size)).any(1)
                if wrong.any():
                    x, y = points[wrong.argmax()]
                    raise OSError(
                        f"{path}: found a keypoint at ({x:g}, {y:g}), wanted it inside of {width} x {height}"
                    )
            if sample.get("flip"):
                image = image[:, ::-1]
                sample[f"{side}_points"] = points * (-1, 1) + np.array((width, 0), np.float32)
                left, top, right, bottom = sample[f"{side}_box"]
                sample[f"{side}_box"] = (width - right, top, width - left, bottom)
            sample[f"{side}_img"] = image
        return sample


def _enhance(kind: type, low: float, high: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: kind(image).enhance(random.uniform(low, high))


def _shift_hue(image: Image.Image) -> Image.Image:
    hue, *others = image.convert("HSV").split()
    turn = round(random.uniform(-0.1, 0.1) * 256)
    hue = hue.point(lambda value: (value + turn) % 256)
    return Image.merge("HSV", (hue, *others)).convert("RGB")


def _chain(*steps: Callable[[Image.Image], Image.Image]) -> Callable[[Image.Image], Image.Image]:
    def apply(image: Image.Image) -> Image.Image:
        for step in steps:
            image = step(image)
        return image

    return apply


PHOTOMETRIC: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "posterize": lambda image: ImageOps.posterize(image, 4),
    "equalize": ImageOps.equalize,
    "sharpen": _enhance(ImageEnhance.Sharpness, 1.5, 3.0),
    "brightness_contrast": _chain(
        _enhance(ImageEnhance.Brightness, 0.8, 1.2), _enhance(ImageEnhance.Contrast, 0.8, 1.2)
    ),
    "solarize": lambda image: ImageOps.solarize(image, 128),
    "jitter": _chain(
        _enhance(ImageEnhance.Brightness, 0.8, 1.2),
        _enhance(ImageEnhance.Contrast, 0.8, 1.2),
        _enhance(ImageEnhance.Color, 0.8, 1.2),
        _shift_hue,
    ),
}


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandomPhotometric:
    """Change the colours of both images, each for itself, as CATs does: all of :data:`PHOTOMETRIC` in order.

    Source: Cho et al., "CATs: Cost Aggregation Transformers for Visual Correspondence", NeurIPS 2021; the
    strength of each change is not in the paper and ours.

    Args:
        prob: of each change.
    """

    prob: float = 0.2

    def __call__(self, sample: dict) -> dict:
        sample = dict(sample)
        for side in SIDES:
            image = Image.fromarray(sample[f"{side}_img"])
            for change in PHOTOMETRIC.values():
                if random.random() < self.prob:
                    image = change(image)
            sample[f"{side}_img"] = np.asarray(image)
        return sample


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class ResizePair:
    """Resize both images to squares, without keeping their aspect, and with them points and boxes.

    With probability ``crop_prob``, for each image, a random box of it that holds the whole object is cut out
    first; points are then clamped to 0..size - 1.

    Args:
        size: side of the result in pixels.
        crop_prob: as CATs trains: 0.5.
    """

    size: int
    crop_prob: float = 0.0

    def __call__(self, sample: dict) -> dict:
        sample = dict(sample)
        for side in SIDES:
            image = Image.fromarray(sample[f"{side}_img"])
            cropped = self.crop_prob > 0 and random.random() < self.crop_prob
            window = _draw_window(image.size, sample[f"{side}_box"]) if cropped else (0, 0, *image.size)
            left, top, right, bottom = window
            sample[f"{side}_img"] = np.asarray(
                image.resize((self.size, self.size), Image.Resampling.BILINEAR, window)
            )
            if f"{side}_points" in sample:
                scale = np.array((self.size / (right - left), self.size / (bottom - top)), np.float32)
                points = (sample[f"{side}_points"] - np.array((left, top), np.float32)) * scale
                sample[f"{side}_points"] = points.clip(0, self.size - 1) if cropped else points
                box = np.reshape(sample[f"{side}_box"], (2, 2)) - (left, top)
                sample[f"{side}_box"] = tuple(map(float, (box * scale).ravel()))
        return sample


def _draw_window(size: tuple[int, int], box: tuple[float, float, float, float]) -> tuple[int, ...]:
    """A random window (left, top, right, bottom) in whole pixels of an image, around a box."""
    low = [
        random.randint(0, min(max(0, int(start)), extent - 1))
        for start, extent in zip(box[:2], size, strict=True)
    ]
    high = [
        random.randint(min(extent, int(end) + 1), extent) for end, extent in zip(box[2:], size, strict=True)
    ]
    high = [max(end, start + 1) for start, end in zip(low, high, strict=True)]
    return (*low, *high)


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class PackPair:
    """{"inputs": uint8 tensor (2, 3, S, S), source and target; "data_samples": :class:`MatchDataSample`}.

    Raises:
        ValueError: the images differ in size or are not square; all keypoints of the source are one.
    """

    def __call__(self, sample: dict) -> dict:
        images = [sample[f"{side}_img"] for side in SIDES]
        shapes = [image.shape for image in images]
        if len({*shapes[0][:2], *shapes[1][:2]}) > 1:
            raise ValueError(
                f"{sample.get('source_path', 'a pair')}: images are {shapes[0]} and {shapes[1]}, wanted "
                "squares of one size: add ResizePair to the pipeline"
            )
        size = shapes[0][0]
        data_sample = MatchDataSample(metainfo={"size": size})
        for key in ("source_path", "target_path", "category"):
            if key in sample:
                data_sample.set_metainfo({key: sample[key]})
        if "sample_idx" in sample:
            data_sample.set_metainfo({"index": sample["sample_idx"]})
        if "source_points" in sample:
            data_sample.set_metainfo({"pck_base": find_base(sample, size)})
            for side in SIDES:
                points = torch.from_numpy(np.asarray(sample[f"{side}_points"], np.float32))
                data_sample.set_data({f"{side}_points": points})
        if "warp" in sample:
            data_sample.warp = sample["warp"]
        inputs = np.stack(images).transpose(0, 3, 1, 2)
        return {"inputs": torch.from_numpy(np.ascontiguousarray(inputs)), "data_samples": data_sample}


def find_base(sample: dict, size: int) -> float:
    """What PCK's thresholds of a resized pair are shares of, in pixels: see ``PairDataset.threshold``."""
    kind = sample.get("threshold", "image")
    if kind == "image":
        return float(size)
    if kind == "box":
        left, top, right, bottom = sample["source_box"]
        base = max(right - left, bottom - top)
    else:
        base = float(np.ptp(sample["source_points"], axis=0).max())
    if base <= 0:
        raise ValueError(
            f"{sample.get('source_path', 'a pair')}: the extent of its {kind} is {base:g}, wanted more than "
            "0 for PCK"
        )
    return base
