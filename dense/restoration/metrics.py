"""PSNR and SSIM, as papers on restoration report them."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from torch import Tensor

from ..registry import METRICS
from .degradations import imresize

CHANNELS = ("y", "rgb")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two images of equal shape on the scale 0..255; inf if equal."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two images (H, W, C) on the scale 0..255: the mean over pixels and channels.

    Gaussian windows of 11 x 11 pixels with a standard deviation of 1.5, those that lie inside the image;
    variances divide by the full weight.

    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP
    2004.

    Raises:
        ValueError: a side is shorter than 11 pixels.
    """
    if min(a.shape[:2]) < 11:
        raise ValueError(f"SSIM wants sides of 11 pixels or more, found {a.shape[0]} x {a.shape[1]}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = _smooth(a), _smooth(b)
    variance_a, variance_b = _smooth(a * a) - mean_a**2, _smooth(b * b) - mean_b**2
    covariance = _smooth(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return float(similarity.mean())


def _smooth(x: np.ndarray) -> np.ndarray:
    weights = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    rows = sum(w * x[i : len(x) - 10 + i] for i, w in enumerate(weights))
    return sum(w * rows[:, i : x.shape[1] - 10 + i] for i, w in enumerate(weights))


def to_y(image: np.ndarray) -> np.ndarray:
    """Luma (H, W, 1) float32 in 16..235 of (H, W, 3) red, green, blue in 0..255, by ITU-R 601; not rounded.

    An image of one channel stays as it is.
    """
    if image.shape[2] == 1:
        return image
    image = image.astype(np.float32) / np.float32(255)
    return image @ np.array([[65.481], [128.553], [24.966]], np.float32) + np.float32(16)


def to_levels(image: np.ndarray) -> np.ndarray:
    """uint8 levels: floating-point numbers are clipped to 0..1 and rounded (half to even)."""
    if image.dtype == np.uint8:
        return image
    return np.rint(np.clip(image, 0, 1) * np.float32(255)).astype(np.uint8)


def compare(a: np.ndarray, b: np.ndarray, crop_border: int = 0, channels: str = "y") -> tuple[float, float]:
    """PSNR in dB and SSIM of two images (H, W, C), uint8 or floating-point numbers in 0..1.

    Args:
        crop_border: pixels that do not count at each side.
        channels: "y" compares the luma of colour images, "rgb" all their channels.
    """
    if a.shape != b.shape:
        raise ValueError(f"images must have one shape, found {a.shape} and {b.shape}")
    if channels not in CHANNELS:
        raise ValueError(f"channels must be one of {CHANNELS}, found {channels!r}")
    pair = [to_levels(image) for image in (a, b)]
    if crop_border:
        pair = [image[crop_border:-crop_border, crop_border:-crop_border] for image in pair]
    if channels == "y":
        pair = [to_y(image) for image in pair]
    return psnr(*pair), ssim(*pair)


@METRICS.register_module()
class ImageQuality(BaseMetric):
    """``<data set>/psnr`` in dB and ``<data set>/ssim``, means over the images of each data set.

    Images are rounded to 8 bits first. Beside them stand ``psnr_input`` and ``ssim_input``: those of the poor
    image itself, enlarged by bicubic interpolation if it is smaller.

    Args:
        crop_border: pixels that do not count at each side of the good image; by habit, the scale.
        channels: "y" compares the luma of colour images, "rgb" all their channels.
        **kwargs: of MMEngine's ``BaseMetric``.

    Raises:
        ValueError: a restored image that is not finite or not of the good one's size.
    """

    default_prefix = ""  # the data set's name stands there

    def __init__(self, crop_border: int = 0, channels: str = "y", **kwargs):
        super().__init__(**kwargs)
        if channels not in CHANNELS:
            raise ValueError(f"channels must be one of {CHANNELS}, found {channels!r}")
        self.crop_border, self.channels = crop_border, channels

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for poor, sample in zip(data_batch["inputs"], data_samples, strict=True):
            if not sample["pred"].isfinite().all():
                raise ValueError(f"{sample['img_path']}: the restored image is not finite")
            pred, gt, poor = (_to_array(x) for x in (sample["pred"], sample["gt"], poor))
            if poor.shape != gt.shape:
                poor = imresize(to_levels(poor), size=gt.shape[:2])
            try:
                found = [compare(image, gt, self.crop_border, self.channels) for image in (pred, poor)]
            except ValueError as error:
                raise ValueError(f"{sample['img_path']}: {error}") from error
            self.results.append((sample["dataset"], [*found[0], *found[1]]))

    def compute_metrics(self, results: list[tuple[str, list[float]]]) -> dict[str, float]:
        by_name = defaultdict(list)
        for name, values in results:
            by_name[name].append(values)
        names = ("psnr", "ssim", "psnr_input", "ssim_input")
        return {
            f"{dataset}/{name}": float(value)
            for dataset, values in by_name.items()
            for name, value in zip(names, np.mean(values, axis=0), strict=True)
        }


def _to_array(image: Tensor) -> np.ndarray:
    return image.cpu().numpy().transpose(1, 2, 0)
