"""Image files of any kind, read whole and written whole."""

import io
import logging
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.logging import print_log
from PIL import Image, ImageCms

from pointsuite.engine.checkpoint import atomic_write

from ..base.images import read_array, upright

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

    Black-and-white images become grey; palettes and other colour spaces become red, green, blue. A profile of
    the same colour space is kept; CMYK becomes sRGB by its profile, and any other profile is left out: a line
    of the log says so.

    Raises:
        OSError: the file is missing, damaged, or of another kind; the message names it.
    """
    pixels, image = read_array(path)
    pixels, profile = _fit_profile(path, pixels, image)
    if pixels.shape[2] in (2, 4):
        return Picture(pixels[..., :-1], pixels[..., -1], profile)
    return Picture(pixels, None, profile)


def _fit_profile(
    path: str | os.PathLike, pixels: np.ndarray, image: Image.Image
) -> tuple[np.ndarray, bytes | None]:
    """Levels, and the profile where it is of their colour space; CMYK is converted to sRGB by its own."""
    profile = image.info.get("icc_profile")
    if not profile:
        return pixels, None
    space = profile[16:20]
    if space == (b"GRAY" if pixels.shape[2] < 3 else b"RGB "):
        return pixels, profile
    said = "left out"
    if image.mode == "CMYK" and space == b"CMYK":
        try:
            srgb = ImageCms.createProfile("sRGB")
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(upright(image), given, srgb, outputMode="RGB")
            pixels, said = np.asarray(converted), "applied: the colours are sRGB now"
        except ImageCms.PyCMSError:
            pass
    name = space.decode("latin-1").strip()
    message = f"{path}: its profile is of the colour space {name!r}; it is {said}"
    print_log(message, "current", logging.WARNING)
    return pixels, None


def check_writable(path: str | os.PathLike, picture: Picture) -> None:
    """Raise OSError if the kind of file that ``path`` names cannot hold what ``picture`` holds."""
    kind = WRITTEN.get(Path(path).suffix.lower())
    if kind is None:
        raise OSError(f"{path}: found no kind of image that is written, wanted one of {', '.join(WRITTEN)}")
    if picture.pixels.dtype == np.uint16 and kind not in ("PNG", "TIFF"):
        raise OSError(f"{path}: {kind} does not hold 16 bits a channel, wanted .png or .tif")
    if picture.pixels.dtype == np.uint16 and kind == "TIFF":
        if picture.icc_profile and picture.pixels.shape[2] > 1:
            raise OSError(f"{path}: TIFF of 16 bits a channel is written without profiles, wanted .png")
        if picture.alpha is not None and picture.pixels.shape[2] == 1:
            raise OSError(f"{path}: TIFF of 16-bit grey is written without transparency, wanted .png")
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
        if array.dtype == np.uint16 and WRITTEN[suffix] == "PNG":
            file.write(_encode_png(array, picture.icc_profile))
        elif array.dtype == np.uint16 and array.shape[2] > 1:  # which Pillow cannot write
            _, data = cv2.imencode(suffix, array[..., [2, 1, 0, 3][: array.shape[2]]])
            file.write(data.tobytes())
        else:
            image = Image.fromarray(array if array.shape[2] > 1 else array[..., 0])
            options = {"quality": 95} if WRITTEN[suffix] in ("JPEG", "WEBP") else {}
            image.save(file, WRITTEN[suffix], icc_profile=picture.icc_profile, **options)


def _encode_png(array: np.ndarray, profile: bytes | None) -> bytes:
    """A PNG of (H, W, 1 to 4) uint16, which neither library writes with a profile."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = array.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = array.astype(">u2").reshape(height, -1).view(np.uint8)
    up = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))  # filter 2: what a row adds to the one above
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), up], 1)
    colours = part(b"iCCP", b"ICC\0\0" + zlib.compress(profile)) if profile else b""
    image = part(b"IDAT", zlib.compress(filtered.tobytes(), 6))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + colours + image + part(b"IEND", b"")
