import numpy as np
import pytest

from pointsuite.io import PointFileError
from pointsuite.io.ply import read_ply
from pointsuite.io.point_file import checked

XYZ = b"property float x\nproperty float y\nproperty float z\n"


def header(*lines: bytes, kind: bytes = b"ascii") -> bytes:
    return b"\n".join([b"ply", b"format " + kind + b" 1.0", *lines, b"end_header\n"])


def test_polygons_become_fans_and_other_elements_are_passed_over():
    data = header(
        b"element camera 1\nproperty list uchar float view\nproperty int id",
        b"element vertex 4\n" + XYZ.strip(),
        b"element face 2\nproperty uchar flag\nproperty list uchar uint vertex_index",
    )
    mesh = read_ply(data + b"2 .5 .5 7\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n9 4 0 1 2 3\n9 2 0 1\n")
    np.testing.assert_array_equal(mesh["points"], [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(mesh["faces"], [[0, 1, 2], [0, 2, 3]])


@pytest.mark.parametrize("order", ["<", ">"])
def test_binary_mesh_with_polygons_of_different_lengths(order):
    kind = b"binary_little_endian" if order == "<" else b"binary_big_endian"
    head = header(
        b"element vertex 4\nproperty double x\nproperty double y\nproperty double z\nproperty short label",
        b"element face 2\nproperty list uchar int vertex_indices",
        kind=kind,
    )
    rows = np.zeros(4, np.dtype([("xyz", f"{order}f8", 3), ("label", f"{order}i2")]))
    rows["xyz"], rows["label"] = np.arange(12).reshape(4, 3), [5, -1, 0, 300]
    faces = b"\x04" + np.array([0, 1, 2, 3], f"{order}i4").tobytes()
    faces += b"\x03" + np.array([3, 2, 1], f"{order}i4").tobytes()
    mesh = read_ply(head + rows.tobytes() + faces)
    np.testing.assert_array_equal(mesh["points"], rows["xyz"])
    np.testing.assert_array_equal(mesh["part"], [5, -1, 0, 300])
    np.testing.assert_array_equal(mesh["faces"], [[0, 1, 2], [0, 2, 3], [3, 2, 1]])
    with pytest.raises(PointFileError, match=r"found 133 bytes after the header, wanted at least 134"):
        read_ply(head + rows.tobytes() + faces[:-1])


@pytest.mark.parametrize(
    ("kind", "dark", "full"), [("uchar", 1, 255), ("ushort", 257, 65535), ("float", 0.5, 1)]
)
def test_brightness_goes_by_the_declared_type(kind, dark, full):
    rgb = "".join(f"property {kind} {n}\n" for n in ("red", "green", "blue")).encode()
    mesh = read_ply(header(b"element vertex 1\n" + XYZ + rgb.strip()) + f"0 0 0 {dark} 0 {full}".encode())
    found = checked(mesh["points"], colors=mesh["colors"]).colors
    np.testing.assert_allclose(found, [[dark / full, 0, 1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PLY\n", "wanted a PLY header"),
        (b"ply\nformat ascii 1.0\n", "no end of the PLY header"),
        (header(b"element vertex 1\n" + XYZ.strip(), kind=b"binary"), "header line 'format binary 1.0'"),
        (header(b"element vertex -1"), "header line 'element vertex -1'"),
        (header(b"element vertex 1\nproperty quad x"), "wanted a type of"),
        (header(b"property float x"), "header line 'property float x'"),
        (header(b"element vertex 1\nproperty list float int x"), "header line 'property list float int x'"),
        (b"ply\nelement vertex 0\nend_header\n", "no format line"),
        (header(b"element vertex 1\nproperty float x\nproperty float y") + b"1 2", "wanted x, y and z"),
        (header(b"element vertex 1\n" + XYZ + b"property float x") + b"1 2 3 4", "nor a name twice"),
        (header(b"element vertex 1\n" + XYZ + b"property list uchar int w") + b"1 2 3 0", "no lists"),
        (header(b"element point 1\n" + XYZ.strip()) + b"1 2 3", r"elements \['point'\], wanted a vertex"),
        (header(b"element vertex 99999999999\n" + XYZ.strip()) + b"1 2 3", "found 3 numbers .* 299999999997"),
        (header(b"element vertex 2\n" + XYZ.strip()) + b"1 2 3", "found 3 numbers .* at least 6"),
        (header(b"element vertex 1\n" + XYZ.strip()) + b"1 2 3 4", "found 4 numbers .* wanted 3"),
        (header(b"element vertex 1\n" + XYZ.strip()) + b"1 2 x", "found '1 2 x', wanted numbers"),
        (header(b"element junk 99999999999"), "no properties of the element junk"),
        (
            header(b"element vertex 1\n" + XYZ + b"element face 1\nproperty list uchar int vertex_index")
            + b"0 0 0 3 0 0 1",
            r"a face of vertices \[0, 0, 1\], wanted 0..0",
        ),
        (
            header(b"element vertex 1\n" + XYZ + b"element face 1\nproperty list char int vertex_index")
            + b"0 0 0 -1",
            "a list of -1 numbers",
        ),
        (
            header(b"element vertex 1\n" + XYZ + b"element face 1\nproperty list uchar float vertex_index")
            + b"0 0 0 0",
            "wanted a list vertex_indices",
        ),
    ],
)
def test_refusals(data, message):
    with pytest.raises(PointFileError, match=message):
        read_ply(data)


def test_strips_and_fans_are_a_surface():
    """A strip 0 1 2 -1 of three vertices is a mesh to sample, not a cloud of three points."""
    vertices = b"element vertex 5\n" + XYZ.strip()
    corners = b"0 0 0 1 0 0 0 1 0 1 1 0 0 2 0\n"
    strips = b"element tristrips 1\nproperty list int int vertex_indices"
    mesh = read_ply(header(vertices, strips) + corners + b"9 0 1 2 3 4 -1 0 1 2\n")
    assert mesh["faces"].tolist() == [[0, 1, 2], [2, 1, 3], [2, 3, 4], [0, 1, 2]]
    fans = b"element trifans 2\nproperty list int int vertex_indices"
    mesh = read_ply(header(vertices, fans) + corners + b"4 0 1 3 2 3 2 3 4\n")
    assert mesh["faces"].tolist() == [[0, 1, 3], [0, 3, 2], [2, 3, 4]]


def test_what_is_not_understood_is_named():
    data = header(
        b"element vertex 1\n" + XYZ + b"property uchar alpha\nproperty float f_dc_0",
        b"element edge 2\nproperty int vertex1\nproperty int vertex2",
    )
    cloud = read_ply(data + b"0 0 0 7 .5\n0 0\n0 0\n")
    assert cloud.notes == ["left out the vertex properties alpha, f_dc_0", "left out the elements edge"]


@pytest.mark.parametrize("kind", ["int", "ushort", "uint"])
def test_bytes_in_a_wider_type(kind):
    """255 128 64 declared as whole numbers of more than 8 bits is bright, not black."""
    rgb = "".join(f"property {kind} {n}\n" for n in ("red", "green", "blue")).encode()
    mesh = read_ply(header(b"element vertex 1\n" + XYZ + rgb.strip()) + b"0 0 0 255 128 64")
    np.testing.assert_allclose(
        checked(mesh["points"], colors=mesh["colors"]).colors, [[1, 0.502, 0.251]], atol=1e-3
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            header(*[b"element vertex 1\n" + XYZ.strip()] * 2) + b"0 0 0\n0 0 0",
            r"elements \['vertex', 'vertex'\]",
        ),
        (
            header(b"format ascii 1.0", b"element vertex 1\n" + XYZ.strip()) + b"0 0 0",
            "header line 'format ascii",
        ),
        (
            header(b"element vertex 1\n" + XYZ + b"property uchar red") + b"0 0 0 300",
            "found 300, wanted .* 0..255",
        ),
        (header(b"element vertex " + b"9" * 5000 + b"\n" + XYZ.strip()) + b"0 0 0", "found the header line"),
    ],
)
def test_what_a_file_must_not_have(data, message):
    with pytest.raises(PointFileError, match=message):
        read_ply(data)
