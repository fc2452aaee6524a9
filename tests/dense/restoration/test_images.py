"""Files of every kind: what is read, what is written, what is refused."""

import logging
import struct
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from mmengine.logging import MMLogger
from PIL import Image, ImageCms

from dense.base.images import LoadImage
from dense.restoration.images import Picture, check_writable, read_image, write_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)
DEEP = RNG.integers(0, 65536, (6, 9, 4)).astype(np.uint16)
EXIF = 0x0112


def test_grey_and_colour(tmp_path):
    path = tmp_path / "a.png"
    grey, opacity = (Image.fromarray(RGB[..., i]) for i in (0, 1))
    for image, pixels, alpha in (
        (Image.fromarray(RGB), RGB, None),
        (grey, RGB[..., :1], None),
        (Image.fromarray(RGB[..., 0] > 99), (RGB[..., :1] > 99) * np.uint8(255), None),
        (Image.fromarray(np.dstack([RGB, RGB[..., 0]])), RGB, RGB[..., 0]),
        (Image.merge("LA", [grey, opacity]), RGB[..., :1], RGB[..., 1]),
        (Image.fromarray(DEEP[..., 0]), DEEP[..., :1], None),
    ):
        image.save(path)
        found = read_image(path)
        np.testing.assert_array_equal(found.pixels, pixels)
        assert found.pixels.dtype == pixels.dtype
        assert (found.alpha is None) == (alpha is None)
        if alpha is not None:
            np.testing.assert_array_equal(found.alpha, alpha)


def test_palettes(tmp_path):
    path = tmp_path / "a.png"
    image = Image.fromarray(RGB).quantize(8)
    image.save(path)
    found = read_image(path)
    assert found.pixels.shape == (6, 9, 3) and found.alpha is None
    np.testing.assert_array_equal(found.pixels, np.asarray(image.convert("RGB")))
    image.save(path, transparency=3)
    found = read_image(path)
    np.testing.assert_array_equal(found.alpha == 0, np.asarray(image) == 3)


def test_a_transparent_level_of_grey(tmp_path):
    path = tmp_path / "a.png"
    grey = np.uint8([[0, 7], [7, 9]])
    Image.fromarray(grey).save(path, transparency=7)
    found = read_image(path)
    assert found.pixels[..., 0].tolist() == grey.tolist()
    assert found.alpha.tolist() == [[255, 0], [0, 255]]


def test_other_colours(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(RGB).convert("CMYK").save(path)
    np.testing.assert_array_equal(read_image(path).pixels, RGB)
    Image.fromarray(RGB[..., 0].astype(np.float32)).save(path)
    with pytest.raises(OSError, match="a.tif: not an image .* floating-point"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_upright(tmp_path, orientation, deep):
    """Colours of 16 bits, which OpenCV reads, are turned as Pillow turns those of 8."""
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[EXIF] = orientation
    Image.fromarray(RGB).save(path, exif=exif)
    expected = read_image(path).pixels
    assert expected.shape[:2] == ((6, 9) if orientation < 5 else (9, 6))
    if deep:
        cv2.imwrite(str(path), RGB[..., ::-1].astype(np.uint16) * 257)
        data = path.read_bytes()
        chunk = exif.tobytes().removeprefix(b"Exif\0\0")
        path.write_bytes(data[:33] + png_chunk(b"eXIf", chunk) + data[33:])  # after the header
        found = read_image(path).pixels
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found // 257, expected)


def png_chunk(kind, data):
    import struct
    import zlib

    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_come_back(tmp_path, suffix, channels):
    path = tmp_path / f"a{suffix}"
    picture = Picture(DEEP[..., : min(channels, 3)], DEEP[..., 3] if channels == 4 else None)
    write_image(path, picture)
    found = read_image(path)
    np.testing.assert_array_equal(found.pixels, picture.pixels)
    assert found.pixels.dtype == np.uint16
    if channels == 4:
        np.testing.assert_array_equal(found.alpha, picture.alpha)


def test_grey_of_16_bits_with_transparency(tmp_path):
    picture = Picture(DEEP[..., :1], DEEP[..., 3])
    write_image(tmp_path / "a.png", picture)
    found = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(found.pixels, picture.pixels)
    np.testing.assert_array_equal(found.alpha, picture.alpha)
    with pytest.raises(OSError, match=r"a\.tif: TIFF of 16-bit grey is written without transparency"):
        check_writable(tmp_path / "a.tif", picture)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("top", [65535, 1023, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_netpbm_of_more_than_255_levels(tmp_path, binary, top, channels):
    """Levels are stretched to 16 bits."""
    levels = DEEP[..., :channels].astype(int) % (top + 1)
    kind = {(1, True): 5, (3, True): 6, (1, False): 2, (3, False): 3}[channels, binary]
    body = levels.astype(">u2").tobytes() if binary else " ".join(map(str, levels.ravel())).encode()
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P%d\n9 6\n%d\n" % (kind, top) + body)
    found = read_image(path)
    assert found.pixels.shape == levels.shape and found.pixels.dtype == np.uint16
    np.testing.assert_allclose(found.pixels, levels * (65535 / top), atol=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"photometric": "separated"}, "found 16 bits a channel of CMYK, wanted 8"),
        ({"photometric": "rgb", "planarconfig": "separate"}, "found 16 bits a channel in planes"),
        ({"photometric": "miniswhite"}, "found 16 bits a pixel of which 0 is white"),
        ({"photometric": "rgb"}, None),
        ({"photometric": "rgb", "byteorder": ">"}, None),
        ({"photometric": "rgb", "tile": (16, 16)}, None),
        ({"photometric": "rgb", "compression": "zlib", "predictor": True}, None),
    ],
)
def test_tiff_of_16_bits(tmp_path, options, message):
    tifffile = pytest.importorskip("tifffile")
    array = {"separated": DEEP, "miniswhite": DEEP[..., 0]}.get(options["photometric"], DEEP[..., :3])
    stored = array.transpose(2, 0, 1) if options.get("planarconfig") else array
    tifffile.imwrite(tmp_path / "a.tif", np.ascontiguousarray(stored), **options)
    if message is None:
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, array)
    else:
        with pytest.raises(OSError, match=rf"a\.tif: not an image that can be read \({message}"):
            read_image(tmp_path / "a.tif")


def test_opacity_that_colours_were_multiplied_by(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    alpha = DEEP[..., 3:] | 0x8000
    stored = np.rint(DEEP[..., :3] / 65535 * alpha).astype(np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", np.concatenate([stored, alpha], 2), photometric="rgb", extrasamples=[1]
    )
    found = read_image(tmp_path / "a.tif")
    np.testing.assert_allclose(found.pixels, DEEP[..., :3], atol=2)
    np.testing.assert_array_equal(found.alpha, alpha[..., 0])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg", ".bmp"])
def test_8_bits_come_back(tmp_path, suffix):
    smooth = np.full((8, 8, 3), 90, np.uint8)
    alpha = np.full((8, 8), 77, np.uint8) if suffix in (".png", ".tif", ".webp") else None
    path = tmp_path / f"a{suffix}"
    write_image(path, Picture(smooth, alpha))
    found = read_image(path)
    assert np.abs(found.pixels.astype(int) - 90).max() <= 2
    assert (found.alpha is None) == (alpha is None)
    if suffix != ".webp":  # which has no grey
        write_image(path, Picture(smooth[..., :1]))
        assert read_image(path).pixels.shape == (8, 8, 1)


def make_profile(gamma=None, white=(0.9642, 1, 0.8249), space=b"RGB "):
    """sRGB's, or one of another gamma: of colours (primaries of sRGB) or of grey."""
    if gamma is None:
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    def xyz(values):
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"a\0" + bytes(78 + 2)
    parts = {b"desc": text, b"cprt": b"text\0\0\0\0a\0\0\0", b"wtpt": xyz(white)}
    if space == b"GRAY":
        parts[b"kTRC"] = curve
    else:
        columns = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
        for letter, column in zip((b"r", b"g", b"b"), columns, strict=True):
            parts |= {letter + b"XYZ": xyz(column), letter + b"TRC": curve}
    table, body, place = b"", b"", 132 + 12 * len(parts)
    for name, part in parts.items():
        table += name + struct.pack(">II", place + len(body), len(part))
        body += part + bytes(-len(part) % 4)
    size = place + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x02100000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *(round(v * 65536) for v in white))
    return head.ljust(128, b"\0") + struct.pack(">I", len(parts)) + table + body


LINEAR = make_profile(1.0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("deep", [False, True])
def test_profiles_are_kept(tmp_path, suffix, deep):
    """Also with 16 bits, which neither library writes together."""
    if deep and suffix in (".jpg", ".webp"):
        pytest.skip("holds 8 bits")
    path = tmp_path / f"a{suffix}"
    for pixels, profile in ((RGB, LINEAR), (RGB[..., :1], make_profile(1.8, space=b"GRAY"))):
        if suffix == ".webp" and pixels.shape[2] == 1:
            continue  # has no grey
        levels = pixels.astype(np.uint16) * 257 if deep else pixels
        write_image(path, Picture(levels, None, profile))
        found = read_image(path)
        assert found.icc_profile == profile and found.pixels.dtype == levels.dtype
        if suffix in (".png", ".tif"):
            np.testing.assert_array_equal(found.pixels, levels)


def test_where_no_profile_can_be_held_colours_become_srgb(tmp_path, caplog):
    for pixels, profile in ((RGB, LINEAR), (RGB[..., :1], make_profile(1.0, space=b"GRAY"))):
        with said() as lines:
            write_image(tmp_path / "a.bmp", Picture(pixels, None, profile))
        assert any(
            "a.bmp: BMP holds no profile; the colours are written as sRGB, by its profile" in x for x in lines
        )
        found = read_image(tmp_path / "a.bmp")
        linear = pixels / 255
        wanted = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
        assert found.icc_profile is None and np.abs(found.pixels - wanted)[linear > 0.05].max() <= 3


def test_profiles_of_another_space_are_left_out(tmp_path):
    grey = Image.fromarray(RGB[..., 0])
    grey.save(tmp_path / "a.png", icc_profile=LINEAR)
    with said() as lines:
        found = read_image(tmp_path / "a.png")
    assert found.icc_profile is None and "the colour space 'RGB', not its own; it is left out" in lines[0]
    np.testing.assert_array_equal(found.pixels[..., 0], RGB[..., 0])


@pytest.mark.parametrize("profile", [None, LINEAR, b"no profile" * 20])
def test_cmyk_becomes_srgb(tmp_path, profile):
    image = Image.fromarray(RGB).convert("CMYK")
    image.save(tmp_path / "a.tif", **({"icc_profile": profile} if profile else {}))
    with said() as lines:
        found = read_image(tmp_path / "a.tif")
    assert "a.tif: its colours are CMYK; they become sRGB, without a profile" in lines[0]
    assert found.icc_profile is None
    np.testing.assert_array_equal(found.pixels, RGB)
    assert np.array_equal(LoadImage()({"img_path": tmp_path / "a.tif"})["img"], RGB)


def test_cielab_becomes_srgb(tmp_path):
    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    smooth = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    ImageCms.profileToProfile(Image.fromarray(smooth), *spaces, outputMode="LAB").save(tmp_path / "a.tif")
    for found in (
        read_image(tmp_path / "a.tif").pixels,
        LoadImage()({"img_path": tmp_path / "a.tif"})["img"],
    ):
        assert np.abs(found.astype(int) - smooth).max() <= 3


@contextmanager
def said():
    """Lines of the log, or of what takes its place."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def test_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.png"):
        read_image(tmp_path / "missing.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(OSError, match="broken.png: not an image that can be read"):
        read_image(tmp_path / "broken.png")
    write_image(tmp_path / "half.png", Picture(RNG.integers(0, 256, (90, 90, 3)).astype(np.uint8)))
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:2000])
    with pytest.raises(OSError, match="half.png: not an image that can be read"):
        read_image(tmp_path / "half.png")

    for name, picture, message in (
        ("a.xyz", Picture(RGB), "found no kind of image that is written"),
        ("a.gif", Picture(RGB), "found no kind of image that is written"),
        ("a.jpg", Picture(DEEP[..., :3]), "JPEG does not hold 16 bits"),
        ("a.jpg", Picture(RGB, RGB[..., 0]), "JPEG does not hold transparency"),
    ):
        for function in (check_writable, write_image):
            with pytest.raises(OSError, match=f"{name}: {message}"):
                function(tmp_path / name, picture)
        assert not (tmp_path / name).exists()


def test_an_error_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_image(path, Picture(RGB))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
