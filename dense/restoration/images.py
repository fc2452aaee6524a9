"""Image files of any kind, read whole and written whole."""

import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from pointsuite.engine.checkpoint import atomic_write

from ..base.images import deep_levels

WRITTEN = {  # kinds of files by suffix
    ".bmp": "BMP",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}


class Picture(NamedTuple):
    """What an image file holds, upright.

    Attributes:
        pixels: (H, W, 1) grey or (H, W, 3) red, green, blue; uint8 or uint16.
        alpha: (H, W) opacity, of the same type; None without.
        icc_profile: what the colours mean; None without.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None


def read_image(path: str | os.PathLike) -> Picture:
    """Read an image of 8 or 16 bits: grey or colour, with or without transparency, turned as its EXIF says.

    Black-and-white images become grey; palettes and other colour spaces become red, green, blue.

    Raises:
        OSError: the file is missing, damaged, or of another kind; the message names it.
    """
    try:
        with Image.open(path) as file:
            profile = file.info.get("icc_profile")
            # of these Pillow keeps 8 bits a channel
            if file.mode in ("RGB", "RGBA", "LA") and "16" in str([tile[3] for tile in file.tile]):
                pixels = _read_deep_colour(path, file)
            else:
                pixels = _as_array(ImageOps.exif_transpose(file))
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise  # say already which
    except Exception as error:  # of many types where a file is damaged
        raise OSError(f"{path}: not an image that can be read ({error})") from error
    if pixels.shape[2] in (2, 4):
        return Picture(pixels[..., :-1], pixels[..., -1], profile)
    return Picture(pixels, None, profile)


def _as_array(image: Image.Image) -> np.ndarray:
    """(H, W, 1 to 4), the last of 2 or 4 channels being the opacity."""
    if (levels := deep_levels(image)) is not None:
        return levels[..., None]
    grey = image.mode in ("1", "L", "LA")
    transparent = image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info
    if grey and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow knows no way from L with a transparent level to LA
        return np.asarray(image)[..., [0, 3]]
    mode = ("L" if grey else "RGB") + ("A" if transparent else "")
    array = np.asarray(image.convert(mode))
    return array if array.ndim == 3 else array[..., None]


def _read_deep_colour(path: str | os.PathLike, file: Image.Image) -> np.ndarray:
    array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.ndim != 3:
        raise ValueError("OpenCV cannot read it")
    array = array[..., [2, 1, 0, 3][: array.shape[2]]]
    if file.format != "TIFF":  # of TIFF, OpenCV minds the orientation
        orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation >= 5:
            array = array.swapaxes(0, 1)
        rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(
            orientation, (1, 1)
        )
        array = array[::rows, ::columns]
    return array


def check_writable(path: str | os.PathLike, picture: Picture) -> None:
    """Raise OSError if the kind of file that ``path`` names cannot hold what ``picture`` holds."""
    kind = WRITTEN.get(Path(path).suffix.lower())
    if kind is None:
        raise OSError(f"{path}: found no kind of image that is written, wanted one of {', '.join(WRITTEN)}")
    if picture.pixels.dtype == np.uint16 and kind not in ("PNG", "TIFF"):
        raise OSError(f"{path}: {kind} does not hold 16 bits a channel, wanted .png or .tif")
    if picture.alpha is not None and kind not in ("PNG", "TIFF", "WEBP"):
        raise OSError(f"{path}: {kind} does not hold transparency, wanted .png, .tif or .webp")


def write_image(path: str | os.PathLike, picture: Picture) -> None:
    """Write a file, whole or not at all, of the kind that its suffix says; JPEG and WebP at quality 95.

    Raises:
        OSError: the kind of file cannot hold the picture, or it cannot be written.
    """
    check_writable(path, picture)
    layers = [picture.pixels] if picture.alpha is None else [picture.pixels, picture.alpha[..., None]]
    array = np.ascontiguousarray(np.concatenate(layers, 2))
    suffix = Path(path).suffix.lower()
    with atomic_write(path) as file:
        if array.dtype == np.uint16 and array.shape[2] > 1:  # which Pillow cannot write
            if array.shape[2] == 2:
                array = array[..., [0, 0, 0, 1]]
            _, data = cv2.imencode(suffix, array[..., [2, 1, 0, 3][: array.shape[2]]])
            file.write(data.tobytes())
        else:
            image = Image.fromarray(array if array.shape[2] > 1 else array[..., 0])
            options = {"quality": 95} if WRITTEN[suffix] in ("JPEG", "WEBP") else {}
            image.save(file, WRITTEN[suffix], icc_profile=picture.icc_profile, **options)
