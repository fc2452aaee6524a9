import numpy as np
import pytest

from pointsuite.io import PointFileError
from pointsuite.io.point_file import checked

XYZ = np.arange(12.0).reshape(4, 3)


def test_types_and_units():
    cloud = checked(
        XYZ.astype(np.int16),
        5 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [3, 0, 4]]),
        np.full((4, 3), 51, np.uint8),
        [1.0, 2, 3, -4],
    )
    assert [array.dtype for array in cloud] == [np.float32, np.float32, np.float32, np.int64]
    np.testing.assert_allclose(cloud.normals, [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0.6, 0, 0.8]], atol=1e-7)
    np.testing.assert_allclose(cloud.colors, 0.2)
    np.testing.assert_array_equal(cloud.part, [1, 2, 3, -4])


@pytest.mark.parametrize(
    ("colors", "wanted"),
    [(np.full((4, 3), 0.25), 0.25), (np.full((4, 3), 51.0), 0.2), (np.full((4, 3), 13107, np.uint16), 0.2)],
)
def test_colour_scales(colors, wanted):
    np.testing.assert_allclose(checked(XYZ, colors=colors).colors, wanted)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"points": np.zeros((0, 3))}, "no points, wanted at least 1"),
        ({"points": np.zeros((4, 2))}, r"points of shape \(4, 2\), wanted numbers of shape \(N, 3\)"),
        ({"points": np.zeros((2, 4, 3))}, r"points of shape \(2, 4, 3\)"),
        ({"points": np.array([["a", "b", "c"]])}, "points of type <U1"),
        ({"points": np.zeros((4, 3), complex)}, "points of type complex128"),
        (
            {"points": np.array([[0, 0, 0], [0, np.inf, 0]])},
            r"1 of 2 points that are NaN or infinite \(the first in row 1\)",
        ),
        ({"points": np.array([[0, 0, 1e39]])}, "1 of 1 points that are NaN or infinite"),
        ({"normals": np.zeros((3, 3))}, r"normals of shape \(3, 3\), wanted numbers of shape \(4, 3\)"),
        ({"normals": np.full((4, 3), np.nan)}, "4 of 4 normals that are NaN"),
        ({"colors": np.zeros((4, 4))}, r"colors of shape \(4, 4\)"),
        ({"colors": np.full((4, 3), -0.5)}, r"colors from -0.5 to -0.5, wanted 0..1, 0..255 or 0..65535"),
        ({"colors": np.full((4, 3), 256)}, r"colors from 256 to 256"),
        ({"colors": np.full((4, 3), np.nan)}, "4 of 4 colors that are NaN"),
        ({"part": np.zeros(3, int)}, r"part int64 \(3,\), wanted whole numbers \(4,\)"),
        ({"part": np.full(4, 0.5)}, r"part float64 \(4,\), wanted whole numbers"),
        ({"part": np.full(4, np.inf)}, "part float64"),
        ({"part": np.array(["a"] * 4)}, "part <U1"),
    ],
)
def test_refusals(arrays, message):
    with pytest.raises(PointFileError, match=message):
        checked(**{"points": XYZ, **arrays})


def test_coordinates_far_from_the_origin_keep_a_centimetre():
    """Survey coordinates in metres, of a pipe 300 m long and 1 m wide and of an extent of 9 cm."""
    pipe = np.array([[0, 0, 0], [300, 0.2, 0], [150, 0.61, 0]]) + [500_000, 4_649_776, 300]
    for survey in (pipe, XYZ * 0.01 + [500_000, 5_400_000, 300]):
        cloud = checked(survey)
        np.testing.assert_allclose(cloud.points + cloud.offset, survey, rtol=0, atol=2e-5)
        assert cloud.points.dtype == np.float32 and cloud.offset.dtype == np.float64
        assert "kept as the offset" in cloud.notes[0]
        assert cloud._replace(part=np.zeros(len(survey), int)).offset.tolist() == cloud.offset.tolist()
    near = checked(np.array([[0.1, 0.2, 0.3], [7.7, 8, 9]]))
    assert near.offset.tolist() == [0, 0, 0] and not near.notes
    assert len(checked(np.array([[0.1, 0.2, 0.3]])).points) == 1


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (1e11 + 1e-4 * XYZ, "which float64 cannot tell apart"),
        (1e19 * XYZ, r"wanted at most 1e\+12 and at least 1e-12: choose another unit"),
        (1e-22 * XYZ, "choose another unit"),
    ],
)
def test_what_no_offset_can_mend_is_refused(points, message):
    with pytest.raises(PointFileError, match=message):
        checked(points)


def test_a_file_of_single_precision_that_has_lost_its_digits_says_so():
    (note,) = checked((XYZ * 0.01 + [500_000, 5_400_000, 300]).astype(np.float32)).notes
    assert "as float32, the file itself has lost what is finer" in note


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32"])
def test_whole_colours_within_255_are_bytes_whatever_their_type(kind):
    """255 128 64 in a property of type int, which was taken as a share of 2^31."""
    rgb = np.tile([127, 100, 64] if kind == "int8" else [255, 128, 64], (4, 1)).astype(kind)
    cloud = checked(XYZ, colors=rgb)
    np.testing.assert_allclose(cloud.colors, rgb / rgb.max(), atol=1e-6)
    assert bool(cloud.notes) == (kind not in ("int8", "uint8"))
    if cloud.notes:
        assert f"took the colors, of type {kind} and up to 255, to be in 0..255" in cloud.notes[0]


@pytest.mark.parametrize("kind", ["uint16", "int32", "float64"])
def test_colours_of_16_bits(kind):
    cloud = checked(XYZ, colors=np.tile([65535, 257, 0], (4, 1)).astype(kind))
    np.testing.assert_allclose(cloud.colors, np.tile([1, 257 / 65535, 0], (4, 1)), atol=1e-6)
    assert "to be in 0..65535" in cloud.notes[0]


def test_points_that_a_depth_camera_did_not_see_are_dropped_on_request():
    """NaN points of an organised cloud, an infinite one, and one whose normal alone is NaN."""
    points, normals = XYZ.copy(), np.tile([0, 0, 1.0], (4, 1))
    points[0], points[1, 2], normals[3, 0] = np.nan, np.inf, np.nan
    with pytest.raises(PointFileError, match="2 of 4 points that are NaN or infinite .*, or drop_nan"):
        checked(points, normals)
    cloud = checked(points, normals, np.full((4, 3), 9, np.uint8), [1, 2, 3, 4], drop_nan=True)
    assert cloud.points.tolist() == [XYZ[2].tolist()] and cloud.part.tolist() == [3]
    assert len(cloud.normals) == len(cloud.colors) == 1
    assert cloud.notes == ("left out 3 of 4 points that are NaN or infinite",)
    with pytest.raises(PointFileError, match="found 4 points that are all NaN"):
        checked(np.full((4, 3), np.nan), drop_nan=True)


def test_normals_of_length_0_are_said():
    (note,) = checked(XYZ, np.zeros((4, 3))).notes
    assert "4 of 4 normals of length 0" in note and "normals='estimate'" in note
