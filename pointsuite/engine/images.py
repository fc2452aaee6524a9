"""Image files: finding them, and reading them as red, green and blue."""

import io
import logging
import os
import re
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.logging import print_log
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from .errors import UsageError
from .files import read_bytes
from .jpeg import check_jpeg

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # some of Pillow's others run code
MAX_PIXELS = 100_000_000
DAMAGED_TAGS = ("Corrupt EXIF data", "Tag data larger than file", "Truncated File Read")  # words of Pillow


def find_images(folder: Path) -> list[str]:
    """Regular files of images under a folder, by name, whatever their suffix's case.

    Hidden files and folders are skipped (``._1.png``, ``.ipynb_checkpoints``); a folder to which links lead
    twice counts once, one above this not at all.

    Raises:
        FileNotFoundError: no folder that can be read.
    """

    def fail(error: OSError):
        raise FileNotFoundError(f"{error.filename}: no folder that can be read ({error.strerror})")

    found, seen, start = [], set(), os.path.realpath(folder)
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen or (start != real and start.startswith(os.path.join(real, ""))):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".")  # the order decides which link counts
        found += [
            path
            for name in names
            if name[0] != "." and name.lower().endswith(SUFFIXES)
            for path in [os.path.join(parent, name)]
            if os.path.isfile(path) or not os.path.exists(path)  # a broken link is an error when it is read
        ]
    return sorted(found)


def pixel_limit() -> int:
    """The most pixels of an image or a frame: of ``DENSE_MAX_PIXELS`` in the environment, or 100 million.

    Raises:
        UsageError: the variable is no number from 1.
    """
    value = os.environ.get("DENSE_MAX_PIXELS", "")
    if not value:
        return MAX_PIXELS
    if not value.isdecimal() or not int(value):
        raise UsageError(f"DENSE_MAX_PIXELS: found {value!r}, wanted a whole number of pixels from 1")
    return int(value)


def open_image(
    path: str | os.PathLike, max_pixels: int | None = None, data: bytes | None = None
) -> Image.Image:
    """The one way in for image files: decoded whole, as it is stored (see :func:`upright` for its EXIF).

    Refused are: what is no regular file; more than ``max_pixels``; PNG whose checksums are wrong; files of
    any kind that end too early; several pages or frames (but MPO, whose first is the photograph and whose
    others are views of it).

    Args:
        max_pixels: by default what the environment variable ``DENSE_MAX_PIXELS`` says, else 100 million.
        data: the bytes, where they come from elsewhere than a local file.

    Raises:
        OSError: one line that names the file.
    """
    return _decode(path, max_pixels, data)[0]


def read_labels(path: str | os.PathLike, data: bytes | None = None) -> np.ndarray:
    """A mask as it is stored: indices of a palette, or grey levels, (H, W) uint8 or uint16.

    Raises:
        OSError: see :func:`open_image`; or the image has colours or opacity.
    """
    image = open_image(path, data=data)
    if image.mode in ("1", "L", "P"):
        return np.asarray(image).astype(np.uint8)
    try:
        levels = deep_levels(image)
    except ValueError as error:  # fractions, or numbers of more than 16 bits
        raise OSError(f"{path}: {error}") from error
    if levels is None:
        raise OSError(
            f"{path}: found a mask of {image.mode}, wanted one label a pixel (grey levels or a palette)"
        )
    return levels


def read_array(path: str | os.PathLike, max_pixels: int | None = None) -> tuple[np.ndarray, Image.Image]:
    """An image file's levels, upright, in full depth, and the image that :func:`open_image` gives.

    Returns:
        (H, W, 1 to 4) uint8 or uint16, grey or red, green, blue; the last of 2 or 4 channels is the opacity.
        Palettes and other colour spaces become red, green, blue.

    Raises:
        OSError: see :func:`open_image`.
    """
    image, data, tile = _decode(path, max_pixels)
    try:
        if _is_deep(image, tile):
            return _turn(_read_deep(image, data, tile), image), image
        return _to_array(to_srgb(upright(image), str(path))), image
    except Exception as error:  # of many types where a file is damaged
        raise _unreadable(path, error) from error


def upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF says; its profile is kept."""
    return ImageOps.exif_transpose(image)


def orient(image: Image.Image, path: str | os.PathLike, size: tuple[int, int], whose: str) -> Image.Image:
    """An image as annotations see it: upright, or as it is stored, whichever has their size.

    Args:
        size, whose: see :func:`check_size`.

    Raises:
        OSError: neither has that size; or both have, and EXIF turns the image: nothing tells which is meant.
    """
    check_size(image, path, size, whose)
    turn = _orientation(image)
    if turn != 1 and (turn < 5 or image.width == image.height):
        raise OSError(
            f"{path}: EXIF turns it (orientation {turn}), and nothing tells whether {whose} is of the image "
            "as it is stored or as it is shown; wanted it saved upright"
        )
    return image if image.size == tuple(size) else upright(image)


def check_size(image: Image.Image, path: str | os.PathLike, size: tuple[int, int], whose: str) -> None:
    """Raise an OSError where an image has another size than its annotations, upright and as it is stored.

    Args:
        size: width and height that the annotations are of.
        whose: what says so, for errors.
    """
    shown = image.size[::-1] if _orientation(image) >= 5 else image.size
    if tuple(size) not in (image.size, shown):
        found, wanted = (f"{width} x {height}" for width, height in (shown, size))
        raise OSError(f"{path}: is {found} pixels, wanted {wanted} as {whose} has it")


def read_head(path: str | os.PathLike) -> Image.Image:
    """An image file whose pixels are not decoded yet.

    Raises:
        OSError: see :func:`open_image`.
    """
    return _open(path, None, None)[0]


def stored_orientation(path: str | os.PathLike) -> int:
    """How EXIF wants an image turned, 1 to 8: 1 is upright, as where the file says nothing.

    Raises:
        OSError: see :func:`open_image`.
    """
    return _orientation(read_head(path))


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _unreadable(path: str | os.PathLike, error: Exception) -> OSError:
    if isinstance(error, UnidentifiedImageError):  # whose message names a buffer
        return OSError(f"{path}: not an image that can be read (of no kind that is known)")
    return OSError(f"{path}: not an image that can be read ({' '.join(str(error).split())})")


def _decode(
    path: str | os.PathLike, max_pixels: int | None, data: bytes | None = None
) -> tuple[Image.Image, bytes, list]:
    """The image, the bytes of the file, and how Pillow would read them."""
    image, data, tile = _open(path, max_pixels, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags
            if image.format in ("JPEG", "MPO"):
                check_jpeg(data)
            image.load()
    except Exception as error:  # of many types where a file is damaged
        raise _unreadable(path, error) from error
    return image, data, tile


def _open(
    path: str | os.PathLike, max_pixels: int | None, data: bytes | None
) -> tuple[Image.Image, bytes, list]:
    """The same without a look at the pixels."""
    if data is None:
        data = read_bytes(path, "an image")
    limit = pixel_limit() if max_pixels is None else max_pixels
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            tile = list(image.tile)  # gone once anything is decoded, as for the EXIF of PNG
            width, height = image.size
            if width * height > limit:
                raise ValueError(
                    f"found {width} x {height} pixels, wanted at most {limit}, which DENSE_MAX_PIXELS raises"
                )
            if image.format == "PNG":
                _check_png(data)
            cut = {
                "BMP": len(data) < int.from_bytes(data[2:6], "little"),
                "GIF": data.rstrip(b"\0")[-1:] != b";",
            }
            if cut.get(image.format):
                raise ValueError("it ends before its last byte")
            if image.format == "PPM" and b"_" in re.sub(rb"#[^\n]*", b"", data[: tile[0][2]]):
                raise ValueError("found '_' in its head, wanted whole numbers")  # which Python's would skip
            if image.mode[:2] == "I;" and getattr(image, "tag_v2", {}).get(262) == 0:
                raise ValueError("found 16 bits a pixel of which 0 is white, wanted 0 to be black")
            count = getattr(image, "n_frames", 1)
            if count > 1 and image.format != "MPO":
                raise ValueError(f"found {count} pages or frames, wanted one")
            image.getexif()
        texts = [str(warning.message) for warning in said]
        if image.format == "TIFF" and (texts := [text for text in texts if text.startswith(DAMAGED_TAGS)]):
            raise ValueError(f"its table of tags is damaged: {texts[0]}")
    except Exception as error:  # of many types where a file is damaged
        raise _unreadable(path, error) from error
    return image, data, tile


def _check_png(data: bytes) -> None:
    """Pillow does not mind wrong checksums of image data, nor an end or rows that are missing."""
    place, found, kind = 8, 0, b""
    inflate = zlib.decompressobj()
    while place + 12 <= len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(data[place + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"the checksum of its part {kind.decode('latin-1')!r} is wrong")
        part = data[place + 8 : end] if kind == b"IDAT" else b""
        while part and not inflate.eof:
            found += len(inflate.decompress(part, 1 << 20))
            part = inflate.unconsumed_tail
        place = end + 4
    if kind != b"IEND":
        raise ValueError("it ends before its last part, IEND")
    wanted = _png_size(*struct.unpack_from(">IIBBBBB", data, 16))
    if found < wanted or not inflate.eof:
        raise ValueError(f"found {found} bytes of pixels, wanted {wanted}")


def _png_size(width: int, height: int, depth: int, colour: int, *coding: int) -> int:
    """Bytes of all rows, each behind the number of its filter."""
    bits = depth * {2: 3, 4: 2, 6: 4}.get(colour, 1)
    passes = [(0, 0, 1, 1)]
    if coding[-1]:  # interlaced: first column and row, steps of both
        passes = [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ]
    sides = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sides if columns > 0)


def _is_deep(image: Image.Image, tile: list) -> bool:
    """Whether the file has 16 bits a channel of which Pillow keeps 8.

    Raises:
        ValueError: it has, in a colour space of which there is no reader for 16.
    """
    if image.mode[0] in "IF":  # which Pillow keeps
        return False
    if image.format == "PPM":
        return isinstance(tile[0][3], tuple) and tile[0][3][1] > 255
    bits = image.tag_v2.get(ExifTags.Base.BitsPerSample, ()) if image.format == "TIFF" else ()
    deep = max(bits, default=8) > 8 or ";16" in str([part[3] for part in tile])
    if deep and getattr(image, "tag_v2", {}).get(284) == 2:
        raise ValueError("found 16 bits a channel in planes, wanted the channels of a pixel side by side")
    if deep and image.mode not in ("RGB", "RGBA", "LA"):
        raise ValueError(f"found 16 bits a channel of {image.mode}, wanted 8, or grey, red, green and blue")
    return deep


def _read_deep(image: Image.Image, data: bytes, tile: list) -> np.ndarray:
    if image.format == "PPM":
        (name, _, start, (_, top)), (width, height) = tile[0][:4], image.size
        if name == "ppm":
            levels = np.frombuffer(data, ">u2", 3 * width * height, start)
        else:
            levels = np.array(re.sub(rb"#[^\n]*", b"", data[start:]).split(), np.uint16)
        levels = levels.reshape(height, width, 3)
        if levels.max() > top:
            raise ValueError(f"found the level {levels.max()}, wanted at most {top}")
        return np.rint(levels * (65535 / top)).astype(np.uint16)
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.ndim != 3:
        raise ValueError("OpenCV cannot read it")
    if "LA;16" in str(tile):  # which Pillow and OpenCV make colour
        return array[..., [0, -1]]
    array = array[..., [2, 1, 0, 3][: array.shape[2]]]
    if "RGBa" in str(tile):  # colours by which the opacity was multiplied
        factor = 65535 / np.maximum(array[..., 3:], 1)
        colours = np.minimum(array[..., :3] * factor, 65535)
        array = np.concatenate([np.rint(colours).astype(np.uint16), array[..., 3:]], 2)
    return array


def _turn(array: np.ndarray, image: Image.Image) -> np.ndarray:
    if image.format == "TIFF":  # of which OpenCV minds the orientation
        return array
    orientation = _orientation(image)
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    signs = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
    rows, columns = signs.get(orientation, (1, 1))
    return array[::rows, ::columns]


def _to_array(image: Image.Image) -> np.ndarray:
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


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """An image file as red, green and blue, upright (EXIF): uint8 (H, W, 3).

    Grey images get three equal channels, those of 16 bits lose the lower 8, transparency is dropped; other
    colour spaces become RGB.

    Raises:
        OSError: the file is missing, damaged, or of another kind; the message names it.
    """
    image = open_image(path)
    try:
        return np.asarray(to_rgb(upright(image), str(path)))
    except Exception as error:
        raise _unreadable(path, error) from error


def deep_levels(image: Image.Image) -> np.ndarray | None:
    """Levels (H, W) uint16 of a grey image of 16 bits; None of an image of fewer.

    Raises:
        ValueError: it has more.
    """
    if image.mode == "F":
        raise ValueError("found an image of floating-point numbers, wanted 8 or 16 bits a channel")
    if not image.mode.startswith("I"):  # 16 bits, in 16 or 32
        return None
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"found levels {levels.min()} to {levels.max()}, wanted 0 to 65535")
    return levels.astype(np.uint16)


def to_srgb(image: Image.Image, name: str = "an image") -> Image.Image:
    """An image of CMYK or CIELAB in sRGB, of which a line of the log says so; others as they are.

    CMYK goes by its own profile; without one, by 1 - (C + K), 1 - (M + K), 1 - (Y + K) from 0.
    """
    if image.mode not in ("CMYK", "LAB"):
        return image
    profile = image.info.get("icc_profile") or b""
    srgb, result, way = ImageCms.createProfile("sRGB"), None, "without a profile"
    try:
        if image.mode == "LAB":
            given, way = ImageCms.createProfile("LAB"), "of CIE D50"
            result = ImageCms.profileToProfile(image, given, srgb, outputMode="RGB")
        elif profile[16:20] == b"CMYK":
            given, way = ImageCms.ImageCmsProfile(io.BytesIO(profile)), "by its profile"
            result = ImageCms.profileToProfile(image, given, srgb, outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):
        way = "without its profile, which cannot be applied"
    print_log(f"{name}: its colours are {image.mode}; they become sRGB, {way}", "current", logging.WARNING)
    return image.convert("RGB") if result is None else result


def to_rgb(image: Image.Image, name: str = "an image") -> Image.Image:
    """Any image of 8 or 16 bits a channel, in RGB with 8; see :func:`to_srgb`."""
    image = to_srgb(image, name)
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
