"""What all converters share; tests/pointsuite/datasets/test_<name>.py write each data set's own files."""

from pathlib import Path

import numpy as np
import pytest

from pointsuite.datasets import DatasetError
from pointsuite.datasets.convert import Recipe, Shape, Source, _stored, indices, read_rows, read_table

rng = np.random.default_rng(0)
POINTS = rng.normal(size=(40, 3)).astype(np.float32) * [1, 2, 3] + 5
SHAPE = Shape(POINTS, 2, "shape", normals=np.tile([0, 0, 2.0], (40, 1)), part=np.arange(40) % 3)


def test_first_keeps_what_belongs_to_a_point():
    found = Recipe(10, "first", "never")(SHAPE)
    np.testing.assert_array_equal(found.points, POINTS[:10])
    np.testing.assert_array_equal(found.part, SHAPE.part[:10])
    np.testing.assert_array_equal(found.normals, np.tile([0, 0, 1.0], (10, 1)))
    assert (found.label, found.name) == (2, "shape")


def test_farthest_points_from_the_first_on():
    line = Shape(np.array([[0.4, 0, 0], [0, 0, 0], [0.1, 0, 0], [1, 0, 0]]), 0, "x", np.ones((4, 3)))
    assert Recipe(3, "fps", "never")(line).points[:, 0].tolist() == [0.4, 1, 0]


def test_random_repeats_only_what_it_must():
    rows = Recipe(100, "random", "never")(SHAPE).points
    _, times = np.unique(rows, axis=0, return_counts=True)
    assert sorted(set(times)) == [2, 3] and len(times) == 40
    few = Recipe(30, "random", "never")(SHAPE).points
    assert len(np.unique(few, axis=0)) == 30
    np.testing.assert_array_equal(few, Recipe(30, "random", "never")(SHAPE).points)
    assert not np.array_equal(few, Recipe(30, "random", "never", seed=1)(SHAPE).points)


def test_published_draw_is_that_of_numpys_legacy_seed_2():
    found = Recipe(6, "published", "never")(SHAPE).points
    np.testing.assert_array_equal(found, POINTS[[15, 8, 22, 18, 11, 7]])


@pytest.mark.parametrize("normalize", ["all", "sampled", "never"])
def test_normalisation_is_of_all_points_or_of_the_chosen(normalize):
    found = Recipe(10, "first", normalize)(SHAPE).points
    of = {"all": POINTS, "sampled": POINTS[:10]}.get(normalize)
    if of is None:
        np.testing.assert_array_equal(found, POINTS[:10])
    else:
        centred = of - of.mean(0)
        np.testing.assert_allclose(found, (centred / np.linalg.norm(centred, axis=1).max())[:10], atol=1e-12)


def test_missing_normals_are_estimated_on_the_chosen_points():
    sphere = rng.normal(size=(300, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    found = Recipe(200, "first", "never")(Shape(sphere, 0, "ball"))
    assert (np.sum(found.normals * found.points, axis=1) > 0.9).all()
    unoriented = Recipe(200, "first", "never", orient="none")(Shape(sphere, 0, "ball"))
    along = np.sum(unoriented.normals * unoriented.points, axis=1)
    assert (abs(along) > 0.9).all() and along.min() < 0 < along.max()


HOLED = SHAPE._replace(points=np.where(np.arange(40)[:, None] == 7, np.nan, POINTS))


@pytest.mark.parametrize(
    ("shape", "recipe", "message"),
    [
        (SHAPE, Recipe(41, "first"), "40 points, wanted at least 41: ask for fewer"),
        (HOLED, Recipe(5, "fps"), "row 7: points"),
        (SHAPE._replace(normals=np.eye(40, 3)), Recipe(5, "fps"), "row 3: the normal has no length"),
    ],
)
def test_a_bad_shape_is_named_by_row(shape, recipe, message):
    with pytest.raises(ValueError, match=message):
        recipe(shape)


def test_integers_where_the_coordinates_allow_it():
    unit = SHAPE._replace(points=POINTS / 20, normals=np.tile([0, 0, 1.0], (40, 1)))
    assert _stored([unit], False).points.dtype == np.int16
    assert _stored([unit], True).points.dtype == _stored([SHAPE], False).points.dtype == np.float32
    assert _stored([unit], True).normals.dtype == np.float32


def test_table_of_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("1,2,3\n4 5 6\n\n")
    assert read_table(path, 3).tolist() == [[1, 2, 3], [4, 5, 6]]
    for text, message in (
        ("1,2,3\n4,x,6\n", "row 1: found '4 x 6', wanted 3 numbers"),
        ("1,2,3\n\n4,5\n", "row 2: found '4 5', wanted 3 numbers"),
        ("1,2\n3,4\n", "row 0: found '1 2', wanted 3 numbers"),
        ("", "no rows, wanted rows of 3 numbers"),
        ("\n\n", "no rows"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_table(path, 3)


def test_indices():
    assert indices(np.array([[1], [0]], np.uint8), "ab", "f").tolist() == [1, 0]
    for values in ([[1], [2]], [[0], [-1]], [[0], [0.5]]):
        with pytest.raises(DatasetError, match="f, row 1: .* wanted one of 0 to 1"):
            indices(np.array(values), "ab", "f")
    with pytest.raises(DatasetError, match="wanted one of 0 to 1"):
        indices(np.zeros((3, 2)), "ab", "f")


def test_damaged_hdf5(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"no HDF5")
    with pytest.raises(DatasetError, match="a.h5: damaged or not an HDF5 file"):
        read_rows(path, ("data",))


def test_what_is_missing_is_said_with_where_it_is_offered():
    with pytest.raises(DatasetError, match="x: no such file. Toys is offered at https://toys"):
        Source("Toys", "https://toys", "", "").missing(f"{Path('x')}: no such file")
