import base64

import numpy as np
import pytest

from pointsuite.io import PointFileError
from pointsuite.io.pcd import read_pcd

HEADER = """VERSION 0.7
FIELDS x y z rgb
SIZE 4 4 4 4
TYPE F F F U
COUNT 1 1 1 1
WIDTH 40
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 40
DATA binary_compressed
"""
# 40 points (i mod 4, i mod 5, 2) of colour (255, 0, 51), packed by Open3D: literals, references of both kinds
PACKED = base64.b64decode("LQAAAIACAAABAABAAAGAPyAFAEAgAiADQADgkw8AgOAKo+B0E0CP4JADAzMA/wDgkQMB/wA=")
SMALL = "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 2\nHEIGHT 1\nPOINTS 2\n"


def test_compressed_file():
    arrays = read_pcd(HEADER.encode() + PACKED)
    i = np.arange(40)
    np.testing.assert_array_equal(arrays["points"], np.stack([i % 4, i % 5, 0 * i + 2], axis=1))
    np.testing.assert_array_equal(arrays["colors"], np.tile([255, 0, 51], (40, 1)))


def test_damaged_compressed_data_is_refused_or_stays_numbers():
    whole = HEADER.encode() + PACKED
    for cut in range(len(HEADER), len(whole)):
        with pytest.raises(PointFileError):
            read_pcd(whole[:cut])
    refused = 0
    for at in range(len(HEADER), len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xE1
        try:
            assert read_pcd(bytes(damaged))["points"].shape == (40, 3)
        except PointFileError:
            refused += 1
    assert refused > 25
    with pytest.raises(PointFileError, match="wanted 8 .* 41 x 16 unpacked"):
        read_pcd(HEADER.replace("40", "41").encode() + PACKED)


def test_padding_counts_labels_and_packed_float_colours():
    header = (
        "FIELDS _ x y z descriptor _ rgba label\nSIZE 1 8 8 8 4 2 4 2\nTYPE U F F F F I F I\n"
        "COUNT 3 1 1 1 2 1 1 1\nWIDTH 1\nHEIGHT 2\nPOINTS 2\n"
    )
    names = ("pad", "xyz", "descriptor", "pad2", "rgba", "label")
    row = np.dtype(list(zip(names, ("3u1", "3<f8", "2<f4", "<i2", "<f4", "<i2"), strict=True)))
    table = np.zeros(2, row)
    table["xyz"], table["label"] = [[1, 2, 3], [4, 5, 6]], [-7, 8]
    table["rgba"] = np.array([0xFF102030, 0x00FF00FF], np.uint32).view(np.float32)
    binary = read_pcd(header.encode() + b"DATA binary\n" + table.tobytes())
    color = float(np.uint32(0x00102030).view(np.float32))
    ascii_rows = f"9 9 9 1 2 3 0 0 9 {color!r} -7\n9 9 9 4 5 6 0 0 9 {color!r} 8\n"
    text = read_pcd(header.encode() + b"DATA ascii\n" + ascii_rows.encode())
    for arrays in (binary, text):
        np.testing.assert_array_equal(arrays["points"], [[1, 2, 3], [4, 5, 6]])
        np.testing.assert_array_equal(arrays["part"], [-7, 8])
        np.testing.assert_array_equal(arrays["colors"][0], [0x10, 0x20, 0x30])
    np.testing.assert_array_equal(binary["colors"][1], [255, 0, 255])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("HELLO world\n", "header line 'HELLO world'"),
        ("VERSION .7", "header line 'VERSION .7'"),
        ("VERSION .7\nDATA ascii\n", "no FIELDS or SIZE or TYPE or WIDTH or HEIGHT or POINTS"),
        (SMALL + "DATA zipped\n", "DATA zipped, wanted ascii, binary, binary_compressed"),
        (SMALL.replace("FIELDS x", "FIELDS w") + "DATA ascii\n1 2 3\n1 2 3\n", "wanted x, y and z"),
        (SMALL.replace("SIZE 4", "SIZE 3") + "DATA ascii\n", "wanted a count and one of F4"),
        (SMALL.replace("TYPE F", "TYPE Q") + "DATA ascii\n", "wanted a count and one of F4"),
        (SMALL.replace("SIZE 4 4", "SIZE 4") + "DATA ascii\n", "wanted a count and one of F4"),
        (SMALL.replace("COUNT 1", "COUNT 0") + "DATA ascii\n", "wanted a count and one of F4"),
        (SMALL.replace("WIDTH 2", "WIDTH x") + "DATA ascii\n", "WIDTH x, wanted whole numbers"),
        (
            SMALL.replace("WIDTH 2", "WIDTH 3") + "DATA ascii\n",
            "WIDTH 3 x HEIGHT 1, POINTS 2, wanted them to agree",
        ),
        (SMALL + "DATA ascii\n1 2 3\n", "found 1 lines of data, wanted 2"),
        (SMALL + "DATA ascii\n1 2 3\n1 2 3\n1 2 3\n", "found 3 lines of data, wanted 2"),
        (SMALL + "DATA ascii\n1 2 3\n1 2\n", "wanted 3 numbers"),
        (SMALL + "DATA ascii\n1 2 3\n1 2 x\n", "found '1 2 x', wanted numbers"),
        (SMALL + "DATA binary\n" + 23 * "x", "found 23 bytes of data, wanted 2 x 12"),
        (SMALL + "DATA binary\n" + 25 * "x", "found 25 bytes of data, wanted 2 x 12"),
        (SMALL + "DATA binary_compressed\n123", "found 3 bytes"),
    ],
)
def test_refusals(data, message):
    with pytest.raises(PointFileError, match=message):
        read_pcd(data.encode())


def test_compressed_data_that_did_not_get_smaller_is_stored_as_it_is():
    """Packed size = full size; trailing bytes; COLUMNS, as versions before 0.7 call the fields."""
    points = np.arange(6, dtype=np.float32).reshape(2, 3)
    raw = points.T.tobytes()
    sizes = np.array([len(raw)] * 2, "<u4").tobytes()
    for text in (SMALL, SMALL.replace("FIELDS", "COLUMNS")):
        for behind in (b"", b"\0\0\0", b"more"):
            arrays = read_pcd(text.encode() + b"DATA binary_compressed\n" + sizes + raw + behind)
            np.testing.assert_array_equal(arrays["points"], points)
            assert arrays.notes == [f"left out {len(behind)} bytes after the data"] * bool(behind)
    padded = read_pcd(SMALL.encode() + b"DATA binary\n" + points.tobytes() + b"\n")
    np.testing.assert_array_equal(padded["points"], points)


def test_separate_colours_and_normals_are_taken():
    header = (
        "FIELDS x y z r g b nx ny nz\nSIZE 4 4 4 1 1 1 4 4 4\nTYPE F F F U U U F F F\n"
        "WIDTH 2\nHEIGHT 1\nPOINTS 2\n"
    )
    arrays = read_pcd(header.encode() + b"DATA ascii\n0 0 0 255 0 51 0 0 1\n1 1 1 0 0 0 0 1 0\n")
    assert arrays["colors"].tolist() == [[255, 0, 51], [0, 0, 0]]
    assert arrays["normals"].tolist() == [[0, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("x y z", "x x z", "x comes twice"),
        ("COUNT 1", "COUNT 999999999", "wanted at most 65536 bytes a point"),
        ("WIDTH 2", "WIDTH 2\nWIDTH 2", "found WIDTH twice"),
    ],
)
def test_headers_that_ask_for_too_much_or_twice(old, new, message):
    with pytest.raises(PointFileError, match=message):
        read_pcd((SMALL.replace(old, new) + "DATA ascii\n1 2 3\n4 5 6\n").encode())
