"""Damage within JPEGs is found where codes show it; whole ones of every kind pass."""

import io
import os
import tempfile

import cv2
import numpy as np
import pytest
from PIL import Image

from dense.base.images import LoadImage
from pointsuite.engine.jpeg import check_jpeg

RNG = np.random.default_rng(0)
PICTURE = cv2.GaussianBlur(RNG.integers(0, 256, (61, 83, 3)).astype(np.uint8), (7, 7), 2)
KINDS = {
    **{
        f"{sampling} {'progressive' if progressive else 'sequential'} at {quality}": {
            "subsampling": sampling,
            "progressive": progressive,
            "quality": quality,
        }
        for sampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1")
        for progressive in (False, True)
        for quality in (5, 75, 100)
    },
    "own codes": {"optimize": True},
    "restarts": {"restart_marker_blocks": 3},
    "progressive with restarts": {"restart_marker_rows": 1, "progressive": True},
    "L": {},
    "L progressive": {"progressive": True},
    "CMYK": {},
    "CMYK progressive": {"progressive": True},
}


def encode(kind, size=None):
    image = Image.fromarray(PICTURE).convert(kind.split()[0] if kind[0] in "LC" else "RGB")
    file = io.BytesIO()
    (image if size is None else image.resize(size)).save(file, "JPEG", **KINDS[kind])
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_pass(kind):
    check_jpeg(encode(kind))
    for size in ((1, 1), (8, 8), (17, 9), (16, 33)):
        check_jpeg(encode(kind, size))
    check_jpeg(encode(kind) + b"what cameras add behind the end")


def warnings_of(data):
    """What libjpeg says, on stderr, while OpenCV decodes."""
    with tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        file.seek(0)
        return file.read().decode(errors="replace")


@pytest.mark.parametrize("kind", ["4:2:0 sequential at 75", "4:2:0 progressive at 75", "restarts", "L"])
def test_whatever_libjpeg_warns_of_is_refused(kind):
    data, refused, warned = encode(kind), 0, 0
    start = data.index(b"\xff\xda") + 14
    for place, bit in zip(RNG.integers(start, len(data) - 2, 120), RNG.integers(0, 8, 120), strict=True):
        damaged = bytearray(data)
        damaged[place] ^= 1 << bit
        said = warnings_of(bytes(damaged))
        try:
            check_jpeg(bytes(damaged))
        except ValueError:
            refused += 1
        else:
            assert not said, said
        warned += bool(said)
    assert refused >= warned > 5


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d[:-2], "it ends before its marker of the end"),
        (lambda d: d[: len(d) // 2], "it ends before|a scan ends before its last block"),
        (lambda d: d[: len(d) // 2] + b"\xff\xd9", "a scan ends before its last block"),
        (lambda d: d[:-2] + b"more bytes\xff\xd9", "a scan has bytes behind its last block"),
        (lambda d: d[:200], "it ends before its marker of the end"),
        (lambda d: d[:20] + b"\0\0\0" + d[20:], "wanted a marker"),
    ],
)
@pytest.mark.parametrize("kind", ["4:4:4 sequential at 75", "restarts"])
def test_ends_and_leftovers(tmp_path, kind, damage, message):
    with pytest.raises(ValueError, match=message):
        check_jpeg(damage(encode(kind)))
    (tmp_path / "a.jpg").write_bytes(damage(encode(kind)))
    with pytest.raises(OSError, match=r"a\.jpg: not an image that can be read"):
        LoadImage()({"img_path": tmp_path / "a.jpg"})


def test_a_scan_that_is_lost():
    """Of a component that no scan has, decoders make a grey one."""
    data = encode("4:4:4 progressive at 75")
    first, second = (data.index(b"\xff\xda"), data.index(b"\xff\xc4", data.index(b"\xff\xda")))
    with pytest.raises(ValueError, match="it has no scan of one of its components|has a code that is none"):
        check_jpeg(data[:first] + data[second:])
    with pytest.raises(ValueError, match="it has no scan of one of its components"):
        check_jpeg(data[:first] + b"\xff\xd9")


def test_a_marker_of_a_restart_that_is_lost():
    data = encode("restarts")
    place = data.index(b"\xff\xd1", data.index(b"\xff\xda"))
    with pytest.raises(ValueError, match="a marker of a restart is missing"):
        check_jpeg(data[:place] + b"\xff\xd5" + data[place + 2 :])
