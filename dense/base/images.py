"""Image files: finding them, and reading them as red, green and blue."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..registry import TRANSFORMS

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def find_images(folder: Path) -> list[str]:
    """All images under a folder, by name, whatever their suffix's case; FileNotFoundError without folder."""

    def fail(error: OSError):
        raise FileNotFoundError(f"{error.filename}: no folder that can be read ({error.strerror})")

    return sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder, onerror=fail, followlinks=True)
        for name in names
        if name.lower().endswith(SUFFIXES)
    )


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class LoadImage:
    """``img_path`` to ``img``, upright (EXIF), ``img_shape`` and ``ori_shape``.

    Grey images get three equal channels, those of 16 bits lose the lower 8, transparency is dropped; other
    colour spaces become RGB.

    Raises:
        OSError: the file is missing, damaged, or of another kind; the message names it.
    """

    def __call__(self, sample: dict) -> dict:
        path = sample["img_path"]
        try:
            with Image.open(path) as file:
                image = np.asarray(to_rgb(ImageOps.exif_transpose(file)))
        except (FileNotFoundError, PermissionError):
            raise  # say already which
        except Exception as error:  # of many types where a file is damaged
            raise OSError(f"{path}: not an image that can be read ({error})") from error
        return {**sample, "img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}


def deep_levels(image: Image.Image) -> np.ndarray | None:
    """Levels (H, W) uint16 of a grey image of 16 bits; None of an image of fewer.

    Raises:
        ValueError: it has more.
    """
    if image.mode == "F":
        raise ValueError("found an image of floating-point numbers, wanted 8 or 16 bits a channel")
    if not image.mode.startswith("I"):  # 16 bits, in 16 or 32
        return None
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"found levels {levels.min()} to {levels.max()}, wanted 0 to 65535")
    return levels.astype(np.uint16)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image of 8 or 16 bits a channel, in RGB with 8."""
    if (levels := deep_levels(image)) is not None:
        image = Image.fromarray((levels >> 8).astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def to_colour(array: np.ndarray, name: str = "an image") -> np.ndarray:
    """An array as an image (H, W, 3) uint8: grey in three channels, without alpha, the higher 8 of 16 bits.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 or uint16, not empty.
        name: what errors call it.

    Raises:
        ValueError: it is another.
    """
    shape = array.shape
    if not array.size or array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        raise ValueError(f"{name} is an array {shape}, wanted (H, W) or (H, W, 1, 3 or 4), not empty")
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{name} is an array of {array.dtype}, wanted uint8 or uint16")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    array = array.reshape(*shape[:2], -1)[..., :3]
    return np.ascontiguousarray(np.broadcast_to(array, (*shape[:2], 3)))


def name_targets(
    sources: Sequence[str | os.PathLike | np.ndarray], folder: str | os.PathLike, kinds: Sequence[str]
) -> list[Path]:
    """Files of a folder for what becomes of some images: named as these are; arrays are numbered.

    Args:
        kinds: suffixes that can be written; ``.png`` takes the place of another.

    Raises:
        ValueError: two images would get one name.
    """
    origin: dict[Path, object] = {}
    for i, source in enumerate(sources):
        path = Path(f"{i}.png" if isinstance(source, np.ndarray) else source)
        target = Path(folder) / (path.name if path.suffix.lower() in kinds else f"{path.stem}.png")
        if target in origin:
            raise ValueError(f"{origin[target]} and {source} would both become {target}")
        origin[target] = source
    return list(origin)
