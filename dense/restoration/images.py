"""Image files of any kind, read whole and written whole."""

import io
import logging
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log
from PIL import Image, ImageCms

from pointsuite.engine.checkpoint import atomic_write
from pointsuite.engine.images import read_array

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

    Black-and-white images become grey; palettes become red, green, blue; CMYK and CIELAB become sRGB (see
    :func:`~pointsuite.engine.images.to_srgb`). A profile of the same colour space is kept, any other is left
    out: a line of the log says so.

    Raises:
        OSError: the file is missing, damaged, or of another kind; the message names it.
    """
    pixels, image = read_array(path)
    profile = _fit_profile(path, pixels, image)
    if pixels.shape[2] in (2, 4):
        return Picture(pixels[..., :-1], pixels[..., -1], profile)
    return Picture(pixels, None, profile)


def _fit_profile(path: str | os.PathLike, pixels: np.ndarray, image: Image.Image) -> bytes | None:
    """The profile, where it is of the colour space that the levels are of."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode in ("CMYK", "LAB"):  # which are sRGB now
        return None
    space = profile[16:20]
    if space == (b"GRAY" if pixels.shape[2] < 3 else b"RGB "):
        return profile
    name = space.decode("latin-1").strip()
    message = f"{path}: its profile is of the colour space {name!r}, not its own; it is left out"
    print_log(message, "current", logging.WARNING)
    return None


def check_writable(path: str | os.PathLike, picture: Picture) -> None:
    """Raise OSError if the kind of file that ``path`` names cannot hold what ``picture`` holds."""
    kind = WRITTEN.get(Path(path).suffix.lower())
    if kind is None:
        raise OSError(f"{path}: found no kind of image that is written, wanted one of {', '.join(WRITTEN)}")
    if picture.pixels.dtype == np.uint16 and kind not in ("PNG", "TIFF"):
        raise OSError(f"{path}: {kind} does not hold 16 bits a channel, wanted .png or .tif")
    grey = picture.pixels.shape[2] == 1
    if picture.pixels.dtype == np.uint16 and kind == "TIFF" and grey and picture.alpha is not None:
        raise OSError(f"{path}: TIFF of 16-bit grey is written without transparency, wanted .png")
    if picture.alpha is not None and kind not in ("PNG", "TIFF", "WEBP"):
        raise OSError(f"{path}: {kind} does not hold transparency, wanted .png, .tif or .webp")


def write_image(path: str | os.PathLike, picture: Picture) -> None:
    """Write a file, whole or not at all, of the kind that its suffix says; JPEG and WebP at quality 95.

    The profile goes with it; BMP holds none, so colours become sRGB, of which a line of the log says so.

    Raises:
        OSError: the kind of file cannot hold the picture, or it cannot be written.
    """
    check_writable(path, picture)
    kind = WRITTEN[Path(path).suffix.lower()]
    if kind == "BMP" and picture.icc_profile:
        picture = _apply_profile(path, picture)
    layers = [picture.pixels] if picture.alpha is None else [picture.pixels, picture.alpha[..., None]]
    array = np.ascontiguousarray(np.concatenate(layers, 2))
    with atomic_write(path) as file:
        if array.dtype == np.uint16:
            file.write((_encode_png if kind == "PNG" else _encode_tiff)(array, picture.icc_profile))
        else:
            image = Image.fromarray(array if array.shape[2] > 1 else array[..., 0])
            options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
            image.save(file, kind, icc_profile=picture.icc_profile, **options)


def _apply_profile(path: str | os.PathLike, picture: Picture) -> Picture:
    pixels, way = picture.pixels, "by its profile"
    grey = pixels.shape[2] == 1
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(picture.icc_profile))
        image = Image.fromarray(pixels[..., 0] if grey else pixels)
        srgb = ImageCms.createProfile("sRGB")
        pixels = np.asarray(ImageCms.profileToProfile(image, given, srgb, outputMode="RGB"))
        pixels = pixels[..., :1] if grey else pixels  # three that are equal
    except (OSError, ImageCms.PyCMSError):
        way = "without it, as it cannot be applied"
    message = f"{path}: BMP holds no profile; the colours are written as sRGB, {way}"
    print_log(message, "current", logging.WARNING)
    return Picture(pixels, picture.alpha)


def _encode_png(array: np.ndarray, profile: bytes | None) -> bytes:
    """A PNG of (H, W, 1 to 4) uint16, which neither library writes with a profile, nor grey with opacity."""

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


def _encode_tiff(array: np.ndarray, profile: bytes | None) -> bytes:
    """A TIFF of (H, W, 1, 3 or 4) uint16: one strip, Deflate, opacity not multiplied in."""
    height, width, channels = array.shape
    data = zlib.compress(array.astype("<u2").tobytes(), 6)
    short, long, undefined = ("<H", 3), ("<I", 4), ("<B", 7)
    tags = [
        (256, long, [width]),
        (257, long, [height]),
        (258, short, [16] * channels),
        (259, short, [8]),
        (262, short, [2 if channels > 2 else 1]),
        (273, long, [8]),
        (277, short, [channels]),
        (278, long, [height]),
        (279, long, [len(data)]),
        (284, short, [1]),
    ]
    if channels == 4:
        tags.append((338, short, [2]))
    if profile:
        tags.append((34675, undefined, profile))
    body = data + bytes(len(data) % 2)
    table, more, start = b"", b"", 8 + len(body)  # the values that are too long for the table come first
    for tag, (form, number), values in tags:
        packed = b"".join(struct.pack(form, value) for value in values)
        if len(packed) > 4:
            place = struct.pack("<I", start + len(more))
            more += packed + bytes(len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        table += struct.pack("<HHI", tag, number, len(values)) + place
    head = b"II*\0" + struct.pack("<I", start + len(more))
    return head + body + more + struct.pack("<H", len(tags)) + table + bytes(4)
