import h5py
import numpy as np
import pytest

from pointsuite.datasets import read_clouds
from pointsuite.datasets.layout import decode_normals, decode_points
from pointsuite.datasets.modelnet40 import CLASSES, COUNTS, HDF5_COUNTS

from .prepare import failure, main, prepare

SMALL = ("--num-points", "16", "--allow-partial")


def rows(seed, count=50):
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return np.hstack([rng.uniform(-1, 1, (count, 3)), normals])


@pytest.fixture
def text(tmp_path):
    """modelnet40_normal_resampled, with shapes of two classes."""
    root = tmp_path / "modelnet40_normal_resampled"
    lists = {"train": ["airplane_0001", "night_stand_0001"], "test": ["night_stand_0201"]}
    for split, names in lists.items():
        (root / f"modelnet40_{split}.txt").parent.mkdir(exist_ok=True)
        (root / f"modelnet40_{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            folder = root / name.rpartition("_")[0]
            folder.mkdir(exist_ok=True)
            np.savetxt(folder / f"{name}.txt", rows(len(name)), fmt="%.6f", delimiter=",")
    return root


@pytest.fixture
def hdf5(tmp_path):
    """modelnet40_ply_hdf5_2048, with two training files."""
    root = tmp_path / "modelnet40_ply_hdf5_2048"
    root.mkdir()
    for split, labels in {"train": [[0, 39], [5]], "test": [[8]]}.items():
        names = [f"ply_data_{split}{i}.h5" for i in range(len(labels))]
        (root / f"{split}_files.txt").write_text(
            "".join(f"data/modelnet40_ply_hdf5_2048/{name}\n" for name in names)
        )
        for name, label in zip(names, labels, strict=True):
            cloud = np.stack([rows(i) for i in label]).astype(np.float32)
            with h5py.File(root / name, "w") as file:
                file["data"], file["normal"] = cloud[..., :3], cloud[..., 3:]
                file["label"] = np.array(label, np.uint8)[:, None]
    return root


def test_classes_and_counts():
    assert len(CLASSES) == len(set(CLASSES)) == 40 and list(CLASSES) == sorted(CLASSES)
    assert COUNTS == {"train": 9843, "test": 2468} and HDF5_COUNTS == {"train": 9840, "test": 2468}


def test_text(text):
    clouds, info = prepare("modelnet40", text, "--sampling", "first", *SMALL, split="train")
    assert info.classes == CLASSES and "Wu" in info.attribution
    assert [CLASSES[i] for i in clouds.label] == ["airplane", "night_stand"]
    assert clouds.name.tolist() == ["airplane/airplane_0001", "night_stand/night_stand_0001"]
    wanted = rows(len("airplane_0001"))[:16]
    points = wanted[:, :3] - wanted[:, :3].mean(0)
    points /= np.linalg.norm(points, axis=1).max()
    np.testing.assert_allclose(decode_points(clouds.points[0]), points, atol=5e-5)
    np.testing.assert_allclose(decode_normals(clouds.normals[0]), wanted[:, 3:], atol=0.01)
    assert clouds.points.dtype == np.int16
    exact, _ = prepare("modelnet40", text, "--sampling", "first", "--float32", *SMALL, split="train")
    np.testing.assert_allclose(exact.points[0], points, atol=1e-6)
    np.testing.assert_allclose(exact.normals[0], wanted[:, 3:], atol=2e-6)


def test_farthest_points_are_the_default(text):
    clouds, _ = prepare("modelnet40", text, *SMALL)
    first, _ = prepare("modelnet40", text, "--sampling", "first", *SMALL)

    def least(points):
        distance = np.linalg.norm(points[:, None] - points, axis=-1)
        return distance[~np.eye(16, dtype=bool)].min()

    assert least(decode_points(clouds.points[0])) > 2 * least(decode_points(first.points[0]))


def test_processes_give_the_same(text, tmp_path):
    alone, _ = prepare("modelnet40", text, *SMALL, split="train")
    out = str(tmp_path / "two.h5")
    assert main(["modelnet40", "--root", str(text), "--out", out, "--workers", "2", *SMALL]) == 0
    np.testing.assert_array_equal(read_clouds(out, "train")[0].points, alone.points)


def test_hdf5(hdf5):
    clouds, _ = prepare("modelnet40", hdf5, "--sampling", "first", *SMALL, split="train")
    assert clouds.label.tolist() == [0, 39, 5]
    assert clouds.name.tolist() == ["ply_data_train0:0", "ply_data_train0:1", "ply_data_train1:0"]
    np.testing.assert_allclose(decode_normals(clouds.normals[1]), rows(39)[:16, 3:], atol=0.01)


def test_hdf5_without_normals(hdf5):
    for path in hdf5.glob("*.h5"):
        with h5py.File(path, "a") as file:
            del file["normal"]
    clouds, _ = prepare("modelnet40", hdf5, "--num-points", "40", "--allow-partial")
    points, normals = decode_points(clouds.points[0]), decode_normals(clouds.normals[0])
    assert (np.sum(points * normals, axis=1) > -0.02).all()  # outward, up to how it is stored


def test_published_counts(text, hdf5, capsys):
    error = failure(capsys, "modelnet40", text, "--num-points", "16")
    assert "split 'train': 2 shapes, published are 9843" in error and "https://" in error
    assert "3 shapes, published are 9840" in failure(capsys, "modelnet40", hdf5, "--num-points", "16")
    prepare("modelnet40", text, *SMALL)
    assert "warning: split 'test': 1 shapes, published are 2468" in capsys.readouterr().out


def test_damaged_text(text, capsys, monkeypatch):
    monkeypatch.setattr("pointsuite.datasets.modelnet40.COUNTS", {"train": 2, "test": 1})
    bad = text / "airplane" / "airplane_0001.txt"
    bad.write_text("1,2,3,0,0,1\n1,2,3,0,0\n")
    error = failure(capsys, "modelnet40", text, "--num-points", "2")
    assert "airplane_0001.txt: row 1: found '1 2 3 0 0', wanted 6 numbers (1 of 2 shapes of split" in error
    table = rows(1)
    table[3, 1] = np.nan
    np.savetxt(bad, table, delimiter=",")
    clouds, _ = prepare("modelnet40", text, *SMALL, split="train")
    assert len(clouds) == 1
    assert (
        "warning: left out" in (out := capsys.readouterr().out) and "airplane_0001.txt: row 3: points" in out
    )


def test_what_is_missing(text, hdf5, tmp_path, capsys):
    (text / "airplane" / "airplane_0001.txt").unlink()
    error = failure(capsys, "modelnet40", text, *SMALL)
    assert (
        "airplane_0001.txt: no such file (1 of 2 in modelnet40_train.txt). ModelNet40 is offered at" in error
    )
    (hdf5 / "ply_data_train1.h5").unlink()
    assert "ply_data_train1.h5: no such file" in failure(capsys, "modelnet40", hdf5, *SMALL)
    (hdf5 / "test_files.txt").unlink()
    error = failure(capsys, "modelnet40", tmp_path / "nowhere", *SMALL)
    assert "neither modelnet40_train.txt nor train_files.txt" in error and "https://modelnet" in error


def test_unknown_class_is_named(text, hdf5, capsys):
    with open(text / "modelnet40_test.txt", "a") as file:
        file.write("nightstand_0001\n")
    error = failure(capsys, "modelnet40", text, *SMALL)
    assert "modelnet40_test.txt, row 1: 'nightstand_0001', wanted a class of airplane, " in error
    with h5py.File(hdf5 / "ply_data_train0.h5", "a") as file:
        file["label"][1] = 40
    error = failure(capsys, "modelnet40", hdf5, *SMALL)
    assert "ply_data_train0.h5, key 'label', row 1: [40], wanted one of 0 to 39" in error
