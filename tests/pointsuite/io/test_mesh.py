import numpy as np
import pytest

from pointsuite.io import PointFileError, sample_surface
from pointsuite.io.mesh import read_obj, read_off

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)


@pytest.mark.parametrize(
    "data",
    [
        b"OFF\n4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n",
        b"OFF4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n",
        b"OFF 4 1 0\r\n0 0 0\r\n1 0 0\r\n1 1 0\r\n0 1 0\r\n4 0 1 2 3 255 0 0\r\n",
        "# by Åsa\nOFF # too\n\n4 1\n0 0 0\n1 0 0\n1 1 0\n\n0 1 0\n4 0 1 2 3 0.5 0.5 0.5\n".encode(),
        b"COFF\n4 1 0\n0 0 0 9 9 9 1\n1 0 0 9 9 9 1\n1 1 0 9 9 9 1\n0 1 0 9 9 9 1\n4 0 1 2 3\n",
    ],
)
def test_off(data):
    mesh = read_off(data)
    np.testing.assert_array_equal(mesh["points"], SQUARE)
    np.testing.assert_array_equal(mesh["faces"], [[0, 1, 2], [0, 2, 3]])


@pytest.mark.parametrize("face", ["f 1 2 3 4", "f 1/7/7 2//7 3/7 4", "f -4 -3 -2 -1", "f 1 2 \\\n 3 4 # end"])
def test_obj(face):
    mesh = read_obj(
        f"# x\nmtllib a.mtl\no box\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0 1.0\nvn 0 0 1\n{face}".encode()
    )
    np.testing.assert_array_equal(mesh["points"], SQUARE)
    np.testing.assert_array_equal(mesh["faces"], [[0, 1, 2], [0, 2, 3]])
    assert "colors" not in mesh


def test_colours_of_obj_vertices_are_mixed_on_the_surface():
    mesh = read_obj(b"v 0 0 0 0 0 0\nv 1 0 0 1 0 0\nv 0 1 0 0 1 0\nf 1 2 3\n")
    cloud = sample_surface(mesh["points"], mesh["faces"], 20, colors=mesh["colors"])
    np.testing.assert_allclose(cloud["colors"], cloud["points"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found nothing as the first line, wanted OFF"),
        (b"FOO\n", "found 'FOO' as the first line, wanted OFF"),
        (b"OFF\n", "found nothing after OFF"),
        (b"OFF BINARY\n", "found 'BINARY', wanted whole numbers"),
        (b"OFF\n-1 2 0\n", "wanted the counts"),
        (b"OFF\n3\n", "wanted the counts"),
        (b"OFF\n2 0 0\n0 0 0\n", "found 1 lines of data, wanted 2 vertices"),
        (b"OFF\n1 0 0\n0 0 0\n1 1 1\n", "found 2 lines of data, wanted 1 vertices"),
        (b"OFF\n1 0 0\n0 0\n", "found the vertex '0 0', wanted 3 coordinates"),
        (b"OFF\n1 0 0\n0 0 zero\n", "found '0 0 zero', wanted numbers"),
        (b"OFF\n1 1 0\n0 0 0\n3 0 0\n", "found the face '3 0 0', wanted a count"),
        (b"OFF\n1 1 0\n0 0 0\n3 0 0 1\n", r"vertices \[0, 0, 1\], wanted 0..0"),
        (b"OFF\n1 1 0\n0 0 0\n3 0 0 -1\n", r"vertices \[0, 0, -1\], wanted 0..0"),
        (b"OFF\n1 1 0\n0 0 0\n3 0 0 99999999999999999999\n", r"wanted 0..0"),
    ],
)
def test_off_refusals(data, message):
    with pytest.raises(PointFileError, match=message):
        read_off(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"v 1 2\n", "found the vertex '1 2'"),
        (b"v 1 2 x\n", "found '1 2 x', wanted numbers"),
        (b"v 1 2 3\nf 1 1 2\n", r"vertices \[0, 0, 1\], wanted 0..0"),
        (b"v 1 2 3\nf 0 1 1\n", r"vertices \[-1, 0, 0\], wanted 0..0"),
        (b"v 1 2 3\nf -2 1 1\n", r"vertices \[-1, 0, 0\], wanted 0..0"),
        (b"v 1 2 3\nf a b c\n", "found 'a b c', wanted whole numbers"),
    ],
)
def test_obj_refusals(data, message):
    with pytest.raises(PointFileError, match=message):
        read_obj(data)


def test_sampling_is_uniform_by_area():
    # A square of area 1 and, elsewhere, a triangle of area 3 in the plane x = 9, cut from one long edge.
    vertices = np.vstack([SQUARE, [[9, 0, 0], [9, 6, 0], [9, 0, 1]]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6]])
    cloud = sample_surface(vertices, faces, 20000, seed=1)
    points, on_square = cloud["points"], cloud["points"][:, 0] < 2
    assert abs(on_square.mean() - 0.25) < 0.015  # 5 standard deviations
    quarters = np.histogram2d(*points[on_square, :2].T, bins=2, range=[[0, 1], [0, 1]])[0] / on_square.sum()
    assert abs(quarters - 0.25).max() < 0.035
    np.testing.assert_allclose(points[~on_square].mean(axis=0), [9, 2, 1 / 3], atol=0.06)  # its centroid
    np.testing.assert_allclose(cloud["normals"][on_square], np.tile([0, 0, 1.0], (on_square.sum(), 1)))
    np.testing.assert_allclose(cloud["normals"][~on_square], np.tile([1.0, 0, 0], ((~on_square).sum(), 1)))


def test_a_surface_without_area_is_refused():
    with pytest.raises(PointFileError, match="found 1 triangles of area 0"):
        sample_surface(np.ones((3, 3)), np.array([[0, 1, 2]]), 5)


def test_normals_of_a_cloud_in_obj():
    """A cloud of vertices, each with its vn; where their counts differ they are named."""
    cloud = read_obj(b"v 0 0 0\nv 1 0 0\nvn 0 0 1\nvn 0 1 0\n")
    np.testing.assert_array_equal(cloud["normals"], [[0, 0, 1], [0, 1, 0]])
    cloud = read_obj(b"v 0 0 0\nv 1 0 0\nvn 0 0 1\n")
    assert "normals" not in cloud and "left out 1 normals (vn)" in cloud.notes[0]


@pytest.mark.parametrize("keyword", ["NOFF", "COFF", "CNOFF", "STCNOFF"])
def test_normals_and_colours_of_a_cloud_in_off(keyword):
    """NOFF and COFF: behind the coordinates a normal, a colour with or without alpha, a texture's place."""
    row = b" 0 0 1" * ("N" in keyword) + b" 255 0 51 255" * ("C" in keyword) + b" .5 .5" * ("ST" in keyword)
    cloud = read_off(keyword.encode() + b"\n2 0 0\n0 0 0%s\n1 0 0%s\n" % (row, row))
    assert ("normals" in cloud, "colors" in cloud) == ("N" in keyword, "C" in keyword)
    if "N" in keyword:
        np.testing.assert_array_equal(cloud["normals"], [[0, 0, 1]] * 2)
    if "C" in keyword:
        np.testing.assert_array_equal(cloud["colors"], [[255, 0, 51]] * 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"v 0 0 0\nf 1 1\n", "found the face 'f 1 1', wanted 3 corners"),
        (b"v 0 0 0\nrubbish\n", "found the line 'rubbish', wanted one of v, vn"),
        (b"v 1_0 0 0\n", "found '1_0 0 0', wanted numbers"),
        (b"v 0 0 0\nv 0 0 0 1 1 1\n", "found 1 colors of 2 vertices"),
    ],
)
def test_obj_that_is_not_obj(data, message):
    with pytest.raises(PointFileError, match=message):
        read_obj(data)
