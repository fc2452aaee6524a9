"""Columns by their names, in any spelling, and by their values where these leave no choice."""

import numpy as np
import pytest

from pointsuite.io import PointFileError, read_points
from pointsuite.io.fields import by_name, by_values

XYZ = np.array([[131, 61, 17], [5, 6, 7], [8, 9, 1]], float)


def read(tmp_path, text: str, name: str = "a.csv", **options):
    (tmp_path / name).write_text(text)
    return read_points(tmp_path / name, **options)


@pytest.mark.parametrize("lead", ["", "# ", "//", "# made by hand\n#"])
@pytest.mark.parametrize("sign", [",", " ", "\t", ";"])
def test_the_names_of_a_header_rule(tmp_path, lead, sign):
    """Colours before coordinates; an id first and a label last; in any case and behind a comment's sign."""
    rows = [["r", "g", "b", "X", "y", "Z"], ["200", "88", "57", "131", "61", "17"]]
    cloud = read(tmp_path, lead + "\n".join(sign.join(row) for row in rows))
    assert cloud.points.tolist() == [[131, 61, 17]] and cloud.normals is None
    np.testing.assert_allclose(cloud.colors, np.array([[200, 88, 57]]) / 255, atol=1e-6)
    rows = [["id", "x", "y", "z", "intensity", "label"], ["0", "131", "61", "17", "90", "2"]]
    cloud = read(tmp_path, lead + "\n".join(sign.join(row) for row in rows))
    assert cloud.points.tolist() == [[131, 61, 17]] and cloud.part.tolist() == [2]
    assert cloud.notes == ("left out the columns id, intensity",)


def test_what_is_left_out_is_logged_in_one_line(tmp_path, caplog):
    read(tmp_path, "x y z gps_time\n1 2 3 4\n")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'a.csv'}: left out the columns gps_time"
    ]


def test_without_names_more_than_three_columns_need_to_be_told(tmp_path):
    """Four bare columns, and a file whose third of columns may be colours or normals."""
    with pytest.raises(PointFileError, match="where there are more, columns='x y z nx ny nz' names them"):
        read(tmp_path, "1 2 3 4\n5 6 7 8\n")
    cloud = read(tmp_path, "1 2 3 4\n5 6 7 8\n", columns="z y x part")
    assert cloud.points.tolist() == [[3, 2, 1], [7, 6, 5]] and cloud.part.tolist() == [4, 8]
    with pytest.raises(PointFileError, match="columns 4-6 that may be normals or colors, .* to be told"):
        read(tmp_path, "5 6 7 1 0 0\n8 9 1 0 1 0\n")
    for columns, name in (("x y z r g b", "colors"), (["x", "y", "z", "nx", "ny", "nz"], "normals")):
        cloud = read(tmp_path, "5 6 7 1 0 0\n8 9 1 0 1 0\n", columns=columns)
        np.testing.assert_array_equal(getattr(cloud, name), [[1, 0, 0], [0, 1, 0]])
    cloud = read(tmp_path, "x y z r g b\n5 6 7 1 0 0\n8 9 1 0 1 0\n")
    np.testing.assert_array_equal(cloud.colors, [[1, 0, 0], [0, 1, 0]])
    with pytest.raises(PointFileError, match="found 3 names .* over 4 columns"):
        read(tmp_path, "1 2 3 4\n5 6 7 8\n", columns="x y z")


def test_arrays_without_names_are_told_as_well(tmp_path):
    np.save(tmp_path / "a.npy", np.hstack([XYZ, np.eye(3)]))
    with pytest.raises(PointFileError, match="may be normals or colors"):
        read_points(tmp_path / "a.npy")
    np.testing.assert_array_equal(read_points(tmp_path / "a.npy", columns="x y z r g b").colors, np.eye(3))


def test_what_values_leave_over_needs_no_name():
    """Where one group is normals for certain, the other one is colours."""
    normals = np.array([[0, 0.6, -0.8], [0, 1, 0], [0.6, -0.8, 0]])
    found = by_values(np.hstack([XYZ, np.eye(3), normals]))
    np.testing.assert_array_equal(found["normals"], normals)
    np.testing.assert_array_equal(found["colors"], np.eye(3))
    with pytest.raises(PointFileError, match="neither normals of length 1 nor colors"):
        by_values(np.hstack([XYZ, 7.5 * np.eye(3)]))


@pytest.mark.parametrize(
    ("names", "quantity"),
    [
        ("diffuse_red diffuse_green diffuse_blue", "colors"),
        ("r g b", "colors"),
        ("Red Green Blue", "colors"),
        ("normal_x normal_y normal_z", "normals"),
        ("NX NY NZ", "normals"),
        ("scalar_Nx scalar_Ny scalar_Nz", "normals"),
        ("scalar_Label", "part"),
        ("class", "part"),
        ("label [-]", "part"),
    ],
)
def test_usual_spellings(names, quantity):
    names = [names] if quantity == "part" else names.split()
    columns = [*XYZ.T, *np.eye(3)[: len(names)]]
    found = by_name(["x", "y", "z", *names], columns)
    assert quantity in found and not found.notes


def test_the_choice_among_several_is_fixed():
    """Both part and label, both nx and normal_x: the first of the documented order, the other is named."""
    for order in (["part", "label"], ["label", "part"]):
        found = by_name(
            [*"xyz", *order], [*XYZ.T, np.full(3, order[0] == "part"), np.full(3, order[0] != "part")]
        )
        assert found["part"].all() and found.notes == ["left out the columns label"]
    names = ["normal_x", "normal_y", "normal_z", "nx", "ny", "nz"]
    found = by_name([*"xyz", *names], [*XYZ.T, *np.zeros((3, 3)), *np.eye(3)])
    assert found["normals"].any() and found.notes == ["left out the columns normal_x, normal_y, normal_z"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("x y z x", "of which x comes twice"),
        ("x y z Label label", "of which label comes twice"),
        ("x y z nx ny", "with nx and ny alone, wanted nx, ny, nz or none"),
        ("x y z red blue", "with red and blue alone, wanted red, green, blue or none"),
        ("x y intensity", "found the columns x, y, intensity, wanted x, y and z"),
    ],
)
def test_a_damaged_group_does_not_go_in_silence(names, message):
    names = names.split()
    with pytest.raises(PointFileError, match=message):
        by_name(names, np.ones((len(names), 4)))


def test_r_alone_is_a_range_and_no_damaged_colour():
    assert by_name(["x", "y", "z", "r"], np.ones((4, 4))).notes == ["left out the columns r"]
