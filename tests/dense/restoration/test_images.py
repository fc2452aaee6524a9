"""Files of every kind: what is read, what is written, what is refused."""

import cv2
import numpy as np
import pytest
from PIL import Image

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
    """Becomes colour, whose channels are equal: neither library writes it as it is."""
    write_image(tmp_path / "a.png", Picture(DEEP[..., :1], DEEP[..., 3]))
    found = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(found.pixels, DEEP[..., [0, 0, 0]])
    np.testing.assert_array_equal(found.alpha, DEEP[..., 3])


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


def test_colour_profile_is_kept(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_image(tmp_path / "a.png", Picture(RGB, None, profile))
    assert read_image(tmp_path / "a.png").icc_profile == profile


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
