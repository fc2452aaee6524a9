import numpy as np
import pytest

from pointsuite.datasets.layout import decode_normals, decode_points
from pointsuite.datasets.mesh_folder import SAMPLINGS

from .prepare import OFF_BOX, failure, prepare

SMALL = ("--num-points", "24")
OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def write(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(OBJ if name.endswith("obj") else OFF_BOX)
    return root


@pytest.mark.parametrize("order", ["{split}/{name}/a.off", "{name}/{split}/a.off"])
def test_layouts_with_splits(tmp_path, order):
    pairs = [("Train", "box"), ("Train", "cone"), ("test", "cone")]
    root = write(tmp_path / "meshes", [order.format(split=split, name=name) for split, name in pairs])
    clouds, info = prepare("meshes", root, *SMALL, "--licence", "CC0-1.0", split="train")
    assert info.classes == ("box", "cone") and info.licence == "CC0-1.0"
    assert clouds.label.tolist() == [0, 1]
    assert prepare("meshes", root, *SMALL)[0].label.tolist() == [1]


def test_layout_without_splits(tmp_path):
    root = write(tmp_path / "meshes", ["box/b.off", "box/a.off", "tetrahedron/a.OBJ".lower()])
    (root / "readme.txt").write_text("passed over")
    clouds, _ = prepare("meshes", root, *SMALL, split="all")
    assert clouds.name.tolist() == ["box/a.off", "box/b.off", "tetrahedron/a.obj"]
    assert clouds.label.tolist() == [0, 0, 1]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_points_lie_on_the_surface_with_its_normals(tmp_path, sampling):
    root = write(tmp_path / "meshes", ["box/a.off"])
    clouds, _ = prepare("meshes", root, "--num-points", "64", "--sampling", sampling, split="all")
    points, normals = decode_points(clouds.points[0]), decode_normals(clouds.normals[0])
    np.testing.assert_allclose(np.linalg.norm(points, axis=1).max(), 1, atol=1e-3)
    axis, sign = np.abs(normals).argmax(1), np.sign(normals.sum(1))
    np.testing.assert_allclose(np.abs(normals).max(1), 1, atol=1e-6)
    # each face is a plane, and lies on the side to which its normals point
    for i in range(3):
        front, back = (points[(axis == i) & (sign == s), i] for s in (1, -1))
        assert np.ptp(front) < 1e-3 and np.ptp(back) < 1e-3 and front.mean() > back.mean() + 0.5
    again, _ = prepare("meshes", root, "--num-points", "64", "--sampling", sampling, split="all")
    np.testing.assert_array_equal(again.points, clouds.points)
    distance = np.linalg.norm(points[:, None] - points, axis=-1)[~np.eye(64, dtype=bool)].min()
    assert (distance > 0.1) == (sampling != "uniform")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no file .off or .obj or .ply there"),
        (["a.off"], "a.off: wanted"),
        (["train/a.off"], "a.off: wanted"),
        (["train/box/a.off", "box/test/a.off"], "wanted"),
        (["train/box/a.off", "box/a.off"], "box/a.off: wanted"),
        (["x/y/a.off"], "x/y/a.off: wanted"),
    ],
)
def test_other_layouts_are_refused(tmp_path, capsys, names, message):
    (tmp_path / "meshes").mkdir()
    assert message in failure(capsys, "meshes", write(tmp_path / "meshes", names), *SMALL)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_damaged_mesh(tmp_path, capsys, sampling):
    root = write(tmp_path / "meshes", ["box/a.off", "box/b.off"])
    (root / "box" / "b.off").write_text(OFF_BOX[:-9])
    error = failure(capsys, "meshes", root, *SMALL, "--sampling", sampling)
    assert "b.off: found" in error and "(1 of 2 shapes of split 'all' cannot be used" in error
    (root / "box" / "b.off").write_text("OFF\n1 0 0\n0 0 0\n")
    assert "b.off: found no faces" in failure(capsys, "meshes", root, *SMALL, "--sampling", sampling)
    clouds, _ = prepare("meshes", root, *SMALL, "--sampling", sampling, "--allow-partial", split="all")
    assert clouds.name.tolist() == ["box/a.off"]


def test_counts_must_be_positive(tmp_path, capsys):
    root = write(tmp_path / "meshes", ["box/a.off"])
    assert "--num-points is 0, wanted at least 1" in failure(capsys, "meshes", root, "--num-points", "0")
