"""What makes the poor image of a pair: MATLAB's bicubic resizing, Gaussian noise, JPEG.

Images are arrays (H, W) or (H, W, C), uint8 or floating-point numbers in 0..1.
"""

import io
from math import ceil

import numpy as np
from PIL import Image

# ---------------------------------------------------------------------------------------------- resizing


def imresize(
    image: np.ndarray,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    antialias: bool = True,
) -> np.ndarray:
    """Resize by the bicubic convolution of MATLAB's ``imresize``, the reference of super-resolution.

    Where an axis shrinks, the kernel is stretched by the inverse scale, so that no pixel is skipped; at the
    border the image is mirrored, the outermost pixel included. The axis that shrinks most goes first, of
    equal ones the rows. Computed in float64.

    Source: Keys, "Cubic Convolution Interpolation for Digital Image Processing", IEEE TASSP 1981 (a = -0.5).

    Args:
        image: (H, W) or (H, W, C). uint8 is rounded (half up) and clipped after each axis, as MATLAB does;
            floating-point numbers are neither.
        scale: of both axes; the sizes become ``ceil(scale * side)``.
        size: (height, width) of the result, in place of ``scale``.
        antialias: stretch the kernel where an axis shrinks.

    Returns:
        The resized image, of the type of ``image``.

    Raises:
        TypeError: neither uint8 nor floating-point numbers.
        ValueError: another number of axes, an empty image, both or neither of scale and size, or no pixel.
    """
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise TypeError(f"an image must be uint8 or floating-point numbers, found {image.dtype}")
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"an image must be (H, W) or (H, W, C), none of them 0, found {image.shape}")
    if (scale is None) == (size is None):
        raise ValueError(f"wanted one of scale and size, found scale {scale} and size {size}")
    if size is None:
        if not scale > 0:
            raise ValueError(f"scale must be above 0, found {scale}")
        size, scales = [ceil(side * scale) for side in image.shape[:2]], (scale, scale)
    else:
        scales = [new / old for new, old in zip(size, image.shape, strict=False)]
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be (height, width) of at least 1, found {tuple(size)}")
    result = image
    for axis in sorted((0, 1), key=lambda axis: scales[axis]):
        weights, indices = resize_weights(image.shape[axis], size[axis], scales[axis], antialias)
        result = _weighted_sum(result, axis, weights, indices)
        if image.dtype == np.uint8:
            result = np.clip(np.floor(result + 0.5), 0, 255).astype(np.uint8)
    return result.astype(image.dtype, copy=False)


def resize_weights(old: int, new: int, scale: float, antialias: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels make each pixel of a resized row, and their shares.

    Args:
        old, new: pixels of the row before and after.
        scale: pixels after to one before; pixels are unit cells, and the rows begin at one point.
        antialias: as of :func:`imresize`.

    Returns:
        weights (new, P) float64 that sum to one in each row, and indices (new, P) int64 within 0..old-1.
    """
    stretch = min(scale, 1.0) if antialias else 1.0
    width = 4 / stretch
    centre = (np.arange(new) + 0.5) / scale - 0.5
    first = np.floor(centre - width / 2).astype(np.int64)
    taps = first[:, None] + np.arange(ceil(width) + 2)  # (new, P), some beyond the kernel
    weights = _cubic((centre[:, None] - taps) * stretch)
    weights /= weights.sum(1, keepdims=True)
    used = (weights != 0).any(0)
    taps = taps[:, used] % (2 * old)  # the mirrored row, then the row again
    return weights[:, used], np.where(taps < old, taps, 2 * old - 1 - taps)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0.0))


def _weighted_sum(image: np.ndarray, axis: int, weights: np.ndarray, indices: np.ndarray) -> np.ndarray:
    shape = [1] * image.ndim
    shape[axis] = -1
    total = 0.0
    for weight, index in zip(weights.T, indices.T, strict=True):
        total = total + weight.reshape(shape) * image.take(index, axis)
    return total


def mod_crop(image: np.ndarray, divisor: int) -> np.ndarray:
    """Cut rows at the bottom and columns on the right, so that both sides are multiples of ``divisor``.

    Raises:
        ValueError: a side is smaller than that.
    """
    height, width = (side - side % divisor for side in image.shape[:2])
    if not (height and width):
        raise ValueError(f"sides must be at least {divisor}, found {image.shape[0]} x {image.shape[1]}")
    return image[:height, :width]


# ------------------------------------------------------------------------------------ noise, compression


def add_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add independent Gaussian noise to every number of an image; nothing is clipped or rounded.

    Args:
        image: uint8, or floating-point numbers in 0..1.
        sigma: standard deviation on the scale 0..255.
        rng: what the noise is drawn from.

    Returns:
        float32 image on the scale 0..1.
    """
    if not sigma >= 0:
        raise ValueError(f"sigma must be at least 0, found {sigma}")
    return to_float(image) + rng.standard_normal(image.shape, np.float32) * np.float32(sigma / 255)


def compress_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """What is left of a uint8 image (H, W), (H, W, 1) or (H, W, 3) after JPEG; colour at half resolution.

    Args:
        image: uint8, colours red, green, blue.
        quality: 1..100, on libjpeg's scale.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be in 1..100, found {quality}")
    if image.dtype != np.uint8:
        raise TypeError(f"JPEG wants a uint8 image, found {image.dtype}")
    file = io.BytesIO()
    plain = image[..., 0] if image.shape[2:] == (1,) else image
    Image.fromarray(np.ascontiguousarray(plain)).save(file, "JPEG", quality=int(quality), subsampling="4:2:0")
    return np.asarray(Image.open(file)).reshape(image.shape)


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 or uint16 levels as float32 in 0..1; floating-point numbers as float32, as they are."""
    if image.dtype.kind == "u":
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return image.astype(np.float32, copy=False)
