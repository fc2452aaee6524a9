import numpy as np
import pytest

from pointsuite.datasets.layout import decode_normals, decode_points
from pointsuite.datasets.modelnet10 import CLASSES, COUNTS, sample_voxels

from .prepare import OFF_BOX, failure, prepare

SMALL = ("--num-points", "16", "--allow-partial")


def test_classes_and_counts():
    assert len(CLASSES) == 10 and list(CLASSES) == sorted(CLASSES)
    assert COUNTS == {"train": 3991, "test": 908}


def write_meshes(root):
    for name in ("bed/train/bed_0001", "toilet/train/toilet_0001", "bed/test/bed_0516"):
        path = root / f"{name}.off"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(OFF_BOX)
    return root


def test_meshes(tmp_path, capsys):
    root = write_meshes(tmp_path / "ModelNet10")
    (root / "README.txt").write_text("ModelNet")
    clouds, info = prepare("modelnet10", root, *SMALL, split="train")
    assert info.classes == CLASSES and [CLASSES[i] for i in clouds.label] == ["bed", "toilet"]
    assert clouds.name.tolist() == ["bed/train/bed_0001.off", "toilet/train/toilet_0001.off"]
    assert "warning: split 'train': 2 shapes, published are 3991" in capsys.readouterr().out
    assert "published are 3991" in failure(capsys, "modelnet10", root, "--num-points", "16")
    (root / "bed").rename(root / "beds")
    assert "found the class 'beds', wanted one of bathtub, " in failure(capsys, "modelnet10", root, *SMALL)


def test_shapes_of_modelnet40s_text(tmp_path):
    root = tmp_path / "modelnet40_normal_resampled"
    (root / "sofa").mkdir(parents=True)
    for split in ("train", "test"):
        (root / f"modelnet10_{split}.txt").write_text(f"sofa_{split}\n")
        table = np.hstack([np.random.default_rng(0).normal(size=(20, 3)), np.tile([0, 1, 0], (20, 1))])
        np.savetxt(root / "sofa" / f"sofa_{split}.txt", table, delimiter=",")
    clouds, _ = prepare("modelnet10", root, *SMALL)
    assert clouds.label.tolist() == [CLASSES.index("sofa")]


def test_faces_of_voxels():
    cells = np.zeros((4, 4, 4), bool)
    cells[0, 1, 1] = cells[1, 1, 1] = True  # a bar of two cells at the border of the grid: 10 faces
    points, normals = sample_voxels(cells, 20000, np.random.default_rng(0))
    assert (
        points.min(0).round(2).tolist() == [-0.5, 0.5, 0.5] and points.max(0).round(2).tolist() == [1.5] * 3
    )
    ends = normals[:, 0] != 0
    assert abs(ends.mean() - 2 / 10) < 0.02
    np.testing.assert_array_equal(points[ends, 0], np.where(normals[ends, 0] > 0, 1.5, -0.5))
    centre = np.array([0.5, 1, 1])
    assert (np.sum((points - centre) * normals, axis=1) > 0.49).all()
    top = points[normals[:, 2] > 0]
    np.testing.assert_allclose(np.histogram(top[:, 0], 4, (-0.5, 1.5))[0] / len(top), 0.25, atol=0.03)
    with pytest.raises(ValueError, match="no cell of the grid is full"):
        sample_voxels(np.zeros((3, 3, 3), bool), 5, np.random.default_rng(0))


@pytest.fixture
def voxels(tmp_path):
    grids = np.zeros((3, 6, 6, 6), np.int32)
    grids[0, 1:4, 2:4, 2:5] = grids[2, :, :, 0] = 1  # the second is empty
    path = tmp_path / "voxels.npz"
    label = np.array([9, 1, 4])
    arrays = {"X_train": grids, "y_train": label, "X_test": grids, "y_test": label}
    np.savez_compressed(path, **arrays)
    return path, arrays


def test_voxels(voxels, capsys):
    path, _ = voxels
    clouds, _ = prepare("modelnet10", path, *SMALL)
    assert clouds.label.tolist() == [9, 4] and clouds.name.tolist() == ["voxels:test:0", "voxels:test:2"]
    points, normals = decode_points(clouds.points[0]), decode_normals(clouds.normals[0])
    assert abs(np.linalg.norm(points, axis=1).max() - 1) < 1e-3
    assert (np.abs(normals).max(1) == 1).all()
    out = capsys.readouterr().out
    assert "left out voxels:test:1: an empty grid" in out
    assert "warning: split 'test': 2 shapes, published are 907" in out


def test_voxels_that_are_none(voxels, capsys):
    path, arrays = voxels
    for key, value, message in (
        ("y_test", np.array([0, 1, 10]), "voxels.npz, key 'y_test', row 2: [10], wanted one of 0 to 9"),
        ("y_test", np.array([0]), "X_test and y_test have shapes ((3, 6, 6, 6), (1,)), wanted"),
    ):
        np.savez(path, **{**arrays, key: value})
        assert message in failure(capsys, "modelnet10", path, *SMALL)
    path.write_bytes(path.read_bytes()[:300])
    assert "voxels.npz: not an .npz of X_train" in failure(capsys, "modelnet10", path, *SMALL)
