"""Concave polygons: the dart, letters and prisms of CAD files, wherever a polygon begins."""

import numpy as np
import pytest

from pointsuite.io import PointFileError, read_points, triangulate
from tests.hostile.corpus import SHAPES, inside, obj, off, ply, shoelace
from tests.pointsuite.datasets.prepare import prepare

DART = np.array([(4, 1, 0), (1, 1, 0), (1, 4, 0), (0, 0, 0)], float)


def area(vertices, faces) -> np.ndarray:
    return np.linalg.norm(triangulate.vector_areas(np.asarray(vertices, float), faces), axis=1).sum() / 2


@pytest.mark.parametrize("name", SHAPES)
def test_the_surface_does_not_depend_on_the_first_corner(name):
    outline = np.array(SHAPES[name][0])
    vertices = np.hstack([outline, np.zeros((len(outline), 1))])
    for first in range(len(outline)):
        corners = np.roll(np.arange(len(outline)), -first)
        for turned in (corners, corners[::-1]):
            faces, notes = triangulate.triangulate(vertices, [len(outline)], turned)
            assert len(faces) == len(outline) - 2 and not notes
            assert area(vertices, faces) == pytest.approx(abs(shoelace(outline)))
            upward = triangulate.vector_areas(vertices, faces)[:, 2]
            assert (upward > -1e-12).all() or (upward < 1e-12).all()
            assert inside(outline, vertices[faces].mean(axis=1)[:, :2]).all()


def test_random_polygons_of_many_corners():
    rng = np.random.default_rng(0)
    for count in (5, 9, 30, 200):
        angle = np.sort(rng.uniform(0, 2 * np.pi, count))
        reach = rng.uniform(0.2, 1, count)
        flat = np.stack([reach * np.cos(angle), reach * np.sin(angle), np.zeros(count)], axis=1)
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        vertices = 40 * flat @ turn + 100
        faces, _ = triangulate.triangulate(vertices, [count], np.arange(count))
        assert area(vertices, faces) == pytest.approx(1600 * abs(shoelace(flat[:, :2])))


def test_polygons_of_all_sizes_keep_their_order():
    vertices = np.vstack([DART, DART + 10])
    counts, corners = [3, 4, 2, 4], [0, 1, 3, 0, 1, 2, 3, 0, 1, 7, 6, 5, 4]
    faces, notes = triangulate.triangulate(vertices, counts, corners)
    assert faces[0].tolist() == [0, 1, 3] and len(faces) == 5
    assert (faces[1:3] < 4).all() and (faces[3:] > 3).all()
    assert notes == ["left out 1 faces of fewer than 3 corners"]
    assert area(vertices, faces[1:]) == pytest.approx(6)


def test_a_face_that_crosses_itself_is_named():
    bow = np.array([(0, 0, 0), (1, 1, 0), (1, 0, 0), (0, 1.5, 0)])
    _, (note,) = triangulate.triangulate(bow, [4], [0, 1, 2, 3])
    assert "cut 1 faces that cross themselves" in note
    with pytest.raises(PointFileError, match=r"found a face of vertices \[0, 9\], wanted 0..3"):
        triangulate.triangulate(bow, [3, 2], [0, 1, 2, 0, 9])


FILES = {
    "a.off": off(DART, [[0, 1, 2, 3]]),
    "a.obj": obj(DART, [[0, 1, 2, 3]]),
    "a.ply": ply(dict(zip("xyz", DART.T, strict=True)), faces=[[0, 1, 2, 3]]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_dart_is_sampled_outside_of_its_notch(tmp_path, name):
    """A dart of area 3 whose first corner does not see the others: no point in the notch, one normal."""
    (tmp_path / name).write_bytes(FILES[name])
    cloud = read_points(tmp_path / name, 4000)
    x, y, _ = cloud.points.T
    assert not ((x > 1.001) & (y > 1.001)).any()
    np.testing.assert_allclose(cloud.normals, np.broadcast_to(cloud.normals[0], (4000, 3)), atol=1e-6)
    share = (
        (x > 1) & (y < 1)
    ).mean()  # the wing from x = 1 to the tip: a triangle of height 3 and base 3 / 4
    assert share == pytest.approx(1.125 / 3, abs=0.03)


@pytest.mark.parametrize("letter", ["L", "U"])
@pytest.mark.parametrize("sampling", ["uniform", "poisson"])
def test_a_prism_with_a_concave_lid_in_a_folder(tmp_path, letter, sampling):
    """prepare_dataset meshes: the lid's points lie in the letter, and look up."""
    outline = np.array(SHAPES[letter][0], float)
    count = len(outline)
    vertices = np.vstack([np.hstack([outline, np.full((count, 1), z)]) for z in (0, 1)])
    sides = [[i, (i + 1) % count, count + (i + 1) % count, count + i] for i in range(count)]
    faces = [list(range(count))[::-1], list(range(count, 2 * count)), *sides]
    (tmp_path / "own" / "letter").mkdir(parents=True)
    (tmp_path / "own" / "letter" / "a.obj").write_bytes(obj(vertices, faces))
    (tmp_path / "a.obj").write_bytes(obj(vertices, faces))
    cloud = read_points(tmp_path / "a.obj", 3000)
    for height, sign in ((0, -1), (1, 1)):
        lid = (abs(cloud.points[:, 2] - height) < 1e-6) & (abs(cloud.normals[:, 2]) > 0.5)
        assert lid.sum() > 300 and inside(outline, cloud.points[lid, :2]).all()
        np.testing.assert_allclose(cloud.normals[lid], [[0, 0, sign]] * lid.sum(), atol=1e-6)
    options = ("--num-points", "256", "--sampling", sampling, "--float32")
    clouds, _ = prepare("meshes", tmp_path / "own", *options, split="all")
    points, normals = clouds.points[0], clouds.normals[0]
    top = normals[:, 2] > 0.5
    assert np.ptp(points[top, 2]) < 1e-5 and not (normals[top] < -0.5).any()
    assert top.mean() == pytest.approx(
        SHAPES[letter][1] / (2 * SHAPES[letter][1] + length(outline)), abs=0.08
    )


def length(outline: np.ndarray) -> float:
    return float(np.linalg.norm(outline - np.roll(outline, -1, axis=0), axis=1).sum())
