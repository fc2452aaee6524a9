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


def test_a_share_of_the_objects_becomes_the_test(tmp_path, capsys):
    """class/file folders: --test makes train and test by object, the same for the same seed."""
    names = [f"{name}/{i}.obj" for name in ("box", "cone") for i in range(5)]
    root = write(tmp_path / "meshes", [*names, "box/0.off"])  # another file of the same object
    prepare("meshes", root, *SMALL, split="all")
    assert "--test 0.2 makes them" in capsys.readouterr().out
    options = (*SMALL, "--test", "0.2", "--seed", "3")
    train, _ = prepare("meshes", root, *options, split="train")
    test, _ = prepare("meshes", root, *options)
    assert "--test 0.2" not in capsys.readouterr().out
    assert sorted(set(test.label)) == [0, 1] and len(train) + len(test) == 11
    objects = [{name.rpartition(".")[0] for name in clouds.name} for clouds in (train, test)]
    assert not objects[0] & objects[1] and len(objects[1]) == 2
    again, _ = prepare("meshes", root, *options)
    assert again.name.tolist() == test.name.tolist()
    others = {
        tuple(prepare("meshes", root, *SMALL, "--test", "0.2", "--seed", str(i))[0].name) for i in range(4)
    }
    assert len(others) > 1


@pytest.mark.parametrize(
    ("names", "share", "message"),
    [
        (["box/a.obj", "box/b.obj"], "0", "--test is 0.0, wanted a share between 0 and 1"),
        (["box/a.obj", "box/b.obj"], "nan", "--test is nan, wanted a share"),
        (["box/a.obj"], "0.5", "class 'box': 1 object, wanted 2 at least"),
        (["train/box/a.obj", "test/box/b.obj"], "0.5", "but the folders have the splits train, test"),
    ],
)
def test_shares_that_make_no_test(tmp_path, capsys, names, share, message):
    root = write(tmp_path / "meshes", names)
    assert message in failure(capsys, "meshes", root, *SMALL, "--test", share)


def test_links_to_folders_are_followed_once(tmp_path):
    root = write(tmp_path / "meshes", ["box/a.off"])
    elsewhere = write(tmp_path / "elsewhere", ["cone/b.off"])
    (root / "cone").symlink_to(elsewhere / "cone")
    (root / "box" / "again").symlink_to(root)
    clouds, info = prepare("meshes", root, *SMALL, split="all")
    assert info.classes == ("box", "cone") and clouds.name.tolist() == ["box/a.off", "cone/b.off"]


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_the_axis_that_points_up_is_stored(tmp_path, up, capsys):
    root = write(tmp_path / "meshes", ["box/a.off"])
    _, info = prepare("meshes", root, *SMALL, "--up", up, split="all")
    assert info.up == up and f"{up} is up" in capsys.readouterr().out
    assert prepare("meshes", root, *SMALL, split="all")[1].up == "z"
