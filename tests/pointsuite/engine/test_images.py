"""Images of every kind become red, green and blue, and find a name where they are written."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dense.base.images import LoadImage
from pointsuite.engine.images import find_images, name_targets, to_colour

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)


def load(path):
    return LoadImage()({"img_path": str(path), "gt_label": 3})


def test_load_rgb(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    found = load(tmp_path / "a.png")
    assert (found["img"] == PICTURE).all() and found["img"].dtype == np.uint8
    assert found["img_shape"] == found["ori_shape"] == (20, 30) and found["gt_label"] == 3


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_load_modes(tmp_path, mode):
    image = Image.fromarray(PICTURE).convert("RGBA" if mode == "PA" else mode)
    path = tmp_path / ("a.png" if mode in ("L", "LA", "1", "P", "PA", "RGBA") else "a.tif")
    if mode == "PA":
        image = image.quantize()
    if mode == "HSV":  # which no file holds
        image, path = image.convert("RGB"), tmp_path / "a.png"
    image.save(path)
    found = load(path)["img"]
    assert found.shape == PICTURE.shape and found.dtype == np.uint8
    grey = np.abs(np.ptp(found.astype(int), axis=2)).max()
    assert (grey == 0) == (mode in ("L", "LA", "1"))
    if mode == "RGBA":
        assert (found == PICTURE).all()


def test_load_palette_with_transparency(tmp_path):
    image = Image.fromarray(PICTURE // 128 * 255).quantize(8)
    image.save(tmp_path / "a.png", transparency=bytes([0, 100, 255, 255, 255, 255, 255, 255]))
    assert (load(tmp_path / "a.png")["img"] == np.asarray(image.convert("RGB"))).all()


def test_load_16_bits(tmp_path):
    levels = RNG.integers(0, 65536, (20, 30)).astype(np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(levels).save(tmp_path / name)
        assert (load(tmp_path / name)["img"] == (levels >> 8)[..., None]).all()
    Image.fromarray(levels.astype(np.int32)).save(tmp_path / "b.tif")
    assert (load(tmp_path / "b.tif")["img"] == (levels >> 8)[..., None]).all()
    import cv2

    color = RNG.integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "c.png"), color[..., ::-1])
    assert (load(tmp_path / "c.png")["img"] == color >> 8).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_load_upright(tmp_path, orientation):
    """The file holds the picture turned; its tag says how to turn it back."""
    turned = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.transpose(1, 0, 2),
        6: PICTURE.transpose(1, 0, 2)[::-1],
        7: PICTURE.transpose(1, 0, 2)[::-1, ::-1],
        8: PICTURE.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "a.png", exif=exif)
    found = load(tmp_path / "a.png")
    assert found["ori_shape"] == (20, 30) and (found["img"] == PICTURE).all()


def test_load_refuses_by_name(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "deep.tif")
    for name, content in {"cut.jpg": data[:-300], "text.png": b"no image", "empty.gif": b""}.items():
        (tmp_path / name).write_bytes(content)
    for name in ("cut.jpg", "text.png", "empty.gif", "float.tif", "deep.tif"):
        with pytest.raises(OSError, match=f"{name}: not an image that can be read"):
            load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        load(tmp_path / "none.png")


def test_arrays_become_colour():
    grey = PICTURE[..., 0]
    for array in (grey, grey[..., None], grey.astype(np.uint16) * 257):
        assert (to_colour(array) == grey[..., None]).all() and to_colour(array).shape == PICTURE.shape
    alpha = np.dstack([PICTURE, np.zeros((20, 30), np.uint8)])
    for array in (PICTURE, alpha, PICTURE.astype(np.uint16) * 256 + 255):
        assert (to_colour(array) == PICTURE).all() and to_colour(array).dtype == np.uint8


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 4, 3), np.uint8), r"input 2 is an array \(0, 4, 3\), wanted \(H, W\)"),
        (np.zeros((4, 4, 2), np.uint8), r"an array \(4, 4, 2\)"),
        (np.zeros(4, np.uint8), r"an array \(4,\)"),
        (np.zeros((4, 4), np.float32), "an array of float32, wanted uint8 or uint16"),
    ],
)
def test_other_arrays_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        to_colour(array, "input 2")


def test_names_of_targets(tmp_path):
    sources = [tmp_path / "a.JPG", PICTURE, str(tmp_path / "b.gif")]
    found = name_targets(sources, "out", (".jpg", ".png"))
    assert [str(path) for path in found] == ["out/a.JPG", "out/1.png", "out/b.png"]
    with pytest.raises(ValueError, match=r"x/b.png and y/b.gif would both become out/b.png"):
        name_targets(["x/b.png", "y/b.gif"], "out", (".png",))


def test_folders_that_link_upwards(tmp_path):
    """Each image once, and none of a folder above."""
    for name in ("top/cat/1.png", "top/dog/2.PNG", "top/cat/.hidden/3.png", "top/cat/._1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PICTURE).save(tmp_path / name, "PNG")
    (tmp_path / "top/cat/up").symlink_to(tmp_path / "top")
    (tmp_path / "top/cat/self").symlink_to(tmp_path / "top/cat")
    (tmp_path / "top/cat/other").symlink_to(tmp_path / "top/dog")
    os.mkfifo(tmp_path / "top/cat/pipe.png")
    found = [os.path.relpath(path, tmp_path / "top") for path in find_images(tmp_path / "top/cat")]
    assert found == ["cat/1.png", "cat/other/2.PNG"]
    assert len(find_images(tmp_path / "top")) == 2


def test_a_phones_photo_with_a_second_picture(tmp_path):
    """MPO: the first is the photograph."""
    Image.fromarray(PICTURE).save(
        tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.fromarray(255 - PICTURE)]
    )
    Image.fromarray(PICTURE).save(tmp_path / "b.jpg", "JPEG")
    assert np.array_equal(load(tmp_path / "a.jpg")["img"], load(tmp_path / "b.jpg")["img"])


def test_the_limit_of_pixels(tmp_path, monkeypatch):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    monkeypatch.setenv("DENSE_MAX_PIXELS", "599")
    with pytest.raises(OSError, match=r"a\.png: .*found 30 x 20 pixels, wanted at most 599, which DENSE_MAX"):
        load(tmp_path / "a.png")
    monkeypatch.setenv("DENSE_MAX_PIXELS", "600")
    load(tmp_path / "a.png")
    monkeypatch.setenv("DENSE_MAX_PIXELS", "1e9")
    with pytest.raises(ValueError, match="DENSE_MAX_PIXELS: found '1e9', wanted a whole number"):
        load(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (30, 20)])
def test_rows_of_png_that_are_missing(tmp_path, mode, size):
    """Of every kind and size the whole passes; one row less does not."""
    Image.new(mode, size).save(tmp_path / "a.png")
    load(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[20:24] = struct.pack(">I", size[1] + 1)  # the height
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(OSError, match=r"a\.png: .*found \d+ bytes of pixels, wanted \d+"):
        load(tmp_path / "a.png")


def test_interlaced_png(tmp_path):
    """Seven passes: rows and columns 0, 8, ... first, each behind the number of its filter."""
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    rows = b"".join(
        b"\0" + row.tobytes() for x, y, dx, dy in passes for row in PICTURE[y::dy, x::dx] if row.size
    )

    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for end, good in ((len(rows), True), (len(rows) - 1, False)):
        head = part(b"IHDR", struct.pack(">IIBBBBB", 30, 20, 8, 2, 0, 0, 1))
        body = part(b"IDAT", zlib.compress(rows[:end])) + part(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
        if good:
            assert np.array_equal(load(tmp_path / "a.png")["img"], PICTURE)
        else:
            with pytest.raises(OSError, match=r"found 1837 bytes of pixels, wanted 1838"):
                load(tmp_path / "a.png")


def test_what_runs_as_a_program_is_no_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(OSError, match=r"a\.png: not an image that can be read \(of no kind that is known\)"):
        load(tmp_path / "a.png")
