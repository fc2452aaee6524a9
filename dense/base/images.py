"""Image files: finding them, and reading them as red, green and blue."""

import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..registry import TRANSFORMS

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 100_000_000


def find_images(folder: Path) -> list[str]:
    """Regular files of images under a folder, by name, whatever their suffix's case.

    Hidden files and folders are skipped (``._1.png``, ``.ipynb_checkpoints``); a folder to which links lead
    twice counts once.

    Raises:
        FileNotFoundError: no folder that can be read.
    """

    def fail(error: OSError):
        raise FileNotFoundError(f"{error.filename}: no folder that can be read ({error.strerror})")

    found, seen = [], set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
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


def open_image(path: str | os.PathLike, max_pixels: int | None = None) -> Image.Image:
    """The one way in for image files: decoded whole, as it is stored (see :func:`upright` for its EXIF).

    Refused are: what is no regular file; more than ``max_pixels``; PNG whose checksums are wrong; files of
    any kind that end too early; several pages or frames (but MPO, whose first is the photograph and whose
    others are views of it).

    Args:
        max_pixels: by default what the environment variable ``DENSE_MAX_PIXELS`` says, else 100 million.

    Raises:
        OSError: one line that names the file.
    """
    return _decode(path, max_pixels)[0]


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
        return _to_array(upright(image)), image
    except Exception as error:  # of many types where a file is damaged
        raise _unreadable(path, error) from error


def upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF says; its profile is kept."""
    return ImageOps.exif_transpose(image)


def stored_orientation(path: str | os.PathLike) -> int:
    """How EXIF wants an image turned, 1 to 8: 1 is upright, as where the file says nothing.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1)
    except FileNotFoundError:
        raise  # says already which
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | os.PathLike, error: Exception) -> OSError:
    if isinstance(error, UnidentifiedImageError):  # whose message names a buffer
        return OSError(f"{path}: not an image that can be read (of no kind that is known)")
    return OSError(f"{path}: not an image that can be read ({' '.join(str(error).split())})")


def _decode(path: str | os.PathLike, max_pixels: int | None) -> tuple[Image.Image, bytes, list]:
    """The image, the bytes of the file, and how Pillow would read them."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise (IsADirectoryError if os.path.isdir(path) else OSError)(f"{path}: not a regular file")
    with open(path, "rb") as file:
        data = file.read()
    limit = int(os.environ.get("DENSE_MAX_PIXELS", MAX_PIXELS)) if max_pixels is None else max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here, and of tags
            image = Image.open(io.BytesIO(data))
            width, height = image.size
            if width * height > limit:
                raise ValueError(
                    f"found {width} x {height} pixels, wanted at most {limit}, which DENSE_MAX_PIXELS raises"
                )
            if image.format == "PNG":
                _check_png(data)
            elif image.format in ("JPEG", "MPO"):
                _check_jpeg(data)
            elif image.format == "GIF" and data.rstrip(b"\0")[-1:] != b";":
                raise ValueError("it ends before its last byte")
            count = getattr(image, "n_frames", 1)
            if count > 1 and image.format != "MPO":
                raise ValueError(f"found {count} pages or frames, wanted one")
            tile = list(image.tile)
            image.load()
    except Exception as error:  # of many types where a file is damaged
        raise _unreadable(path, error) from error
    return image, data, tile


def _check_png(data: bytes) -> None:
    """Pillow does not mind wrong checksums of image data, nor an end that is missing."""
    place = 8
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(data[place + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"the checksum of its part {kind.decode('latin-1')!r} is wrong")
        if kind == b"IEND":
            return
        place = end + 4
    raise ValueError("it ends before its last part, IEND")


def _check_jpeg(data: bytes) -> None:
    """Libjpeg makes up rows that are missing: walk over segments and scans to the marker of the end."""
    place = 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 1 < len(data):
        marker = data[place + 1]
        if marker == 0xD9:
            return
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD7:  # stuffing, fill, restarts
            place += 1 if marker == 0xFF else 2
        elif place + 4 <= len(data):
            place += 2 + max(2, struct.unpack_from(">H", data, place + 2)[0])
        else:
            break
    raise ValueError("it ends before its marker of the end")


def _is_deep(image: Image.Image, tile: list) -> bool:
    """Whether the file has 16 bits a channel of which Pillow keeps 8."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    if image.format == "PPM":
        return isinstance(tile[0][3], int) and tile[0][3] > 255
    return "16" in str([part[3] for part in tile])


def _read_deep(image: Image.Image, data: bytes, tile: list) -> np.ndarray:
    if image.format == "PPM":
        (name, _, start, top), size = tile[0][:4], image.size
        if name != "ppm":
            raise ValueError("found levels above 255 as text, wanted them binary (P6)")
        levels = np.frombuffer(data, ">u2", 3 * size[0] * size[1], start).reshape(size[1], size[0], 3)
        if levels.max() > top:
            raise ValueError(f"found the level {levels.max()}, wanted at most {top}")
        return np.rint(levels * (65535 / top)).astype(np.uint16)
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.ndim != 3:
        raise ValueError("OpenCV cannot read it")
    if image.mode == "LA":
        return array[..., [0, -1]]
    return array[..., [2, 1, 0, 3][: array.shape[2]]]


def _turn(array: np.ndarray, image: Image.Image) -> np.ndarray:
    if image.format == "TIFF":  # of which OpenCV minds the orientation
        return array
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
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
        image = open_image(path)
        try:
            image = np.asarray(to_rgb(upright(image)))
        except Exception as error:
            raise _unreadable(path, error) from error
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
