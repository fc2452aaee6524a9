import json

import h5py
import numpy as np
import pytest

from pointsuite.datasets.layout import decode_points
from pointsuite.datasets.shapenetpart import CATEGORIES, CLASSES, COUNTS, PART_CLASSES, PARTS

from .prepare import failure, prepare

SMALL = ("--num-points", "32", "--allow-partial")
SHAPES = {
    "train": ["02691156/a1", "04379243/t1"],
    "val": ["03790512/m1"],
    "test": ["02773838/b1", "02691156/a2"],
}
FOLDERS = list(CATEGORIES)


def rows(name, count=50):
    """x y z nx ny nz part of a shape; its parts are those of its category in turn."""
    folder, _, stem = name.partition("/")
    rng = np.random.default_rng(list(stem.encode()))
    ball = rng.normal(size=(count, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    part = np.resize(PARTS[CATEGORIES[folder][0]], count)
    return np.hstack([ball * [0.3, 0.2, 0.1], ball, part[:, None]])


@pytest.fixture
def text(tmp_path):
    root = tmp_path / "shapenetcore_partanno_segmentation_benchmark_v0_normal"
    (root / "train_test_split").mkdir(parents=True)
    for split, names in SHAPES.items():
        listing = root / "train_test_split" / f"shuffled_{split}_file_list.json"
        listing.write_text(json.dumps([f"shape_data/{name}" for name in names]))
        for name in names:
            path = root / f"{name}.txt"
            path.parent.mkdir(exist_ok=True)
            np.savetxt(path, rows(name), fmt="%.6f")
    return root


@pytest.fixture
def hdf5(tmp_path):
    root = tmp_path / "hdf5_data"
    root.mkdir()
    for split, names in SHAPES.items():
        (root / f"{split}_hdf5_file_list.txt").write_text(f"ply_data_{split}0.h5\n")
        table = np.stack([rows(name) for name in names])
        with h5py.File(root / f"ply_data_{split}0.h5", "w") as file:
            file["data"], file["pid"] = table[..., :3].astype(np.float32), table[..., 6].astype(np.uint8)
            file["label"] = np.array([[FOLDERS.index(name.partition("/")[0])] for name in names], np.uint8)
    return root


def test_categories_and_parts():
    assert len(CLASSES) == 16 and list(CLASSES) == sorted(CLASSES) and sorted(FOLDERS) == FOLDERS
    assert len(PART_CLASSES) == 50 and sum(PARTS.values(), ()) == tuple(range(50))
    # where each category begins, as published code lists it
    first = [0, 4, 6, 8, 12, 16, 19, 22, 24, 28, 30, 36, 38, 41, 44, 47]
    assert [parts[0] for parts in PARTS.values()] == first
    assert PARTS["Motorbike"] == (30, 31, 32, 33, 34, 35) and PART_CLASSES[35] == "Motorbike 5"
    assert COUNTS == {"train": 12137, "val": 1870, "test": 2874}


def test_text(text, capsys):
    clouds, info = prepare("shapenetpart", text, *SMALL, split="trainval")
    assert info.classes == CLASSES and info.part_classes == PART_CLASSES
    assert info.up == "y"
    assert clouds.name.tolist() == ["02691156/a1", "04379243/t1", "03790512/m1"]
    assert [CLASSES[i] for i in clouds.label] == ["Airplane", "Table", "Motorbike"]
    for label, part in zip(clouds.label, clouds.part, strict=True):
        assert set(part) == set(PARTS[CLASSES[label]])
    assert "split 'trainval': 3 shapes, published are 14007" in capsys.readouterr().out
    assert all(len(np.unique(points, axis=0)) == 32 for points in clouds.points)
    prepare("shapenetpart", text, "--keep-val", *SMALL, split="val")
    assert "split 'train': 2 shapes, published are 12137" in capsys.readouterr().out


def test_published_draw(text):
    """Normalised whole, then drawn with repetition by NumPy's legacy generator with seed 2."""
    options = ("--sampling", "published", "--float32", "--allow-partial", "--num-points", "64")
    clouds, _ = prepare("shapenetpart", text, *options)
    table = rows("02773838/b1").round(6)
    points = table[:, :3] - table[:, :3].mean(0)
    points /= np.linalg.norm(points, axis=1).max()
    drawn = np.random.RandomState(2).choice(50, 64, replace=True)
    np.testing.assert_allclose(clouds.points[0], points[drawn], atol=1e-6)
    np.testing.assert_array_equal(clouds.part[0], table[drawn, 6])
    np.testing.assert_allclose(clouds.normals[0], table[drawn, 3:6], atol=2e-6)


def test_few_points_are_repeated_evenly(text):
    clouds, _ = prepare("shapenetpart", text, "--num-points", "120", "--allow-partial")
    _, times = np.unique(clouds.points[0], axis=0, return_counts=True)
    assert len(times) == 50 and set(times) == {2, 3}


def test_hdf5(hdf5):
    options = ("--sampling", "first", "--num-points", "50", "--allow-partial")
    clouds, _ = prepare("shapenetpart", hdf5, *options)
    assert [CLASSES[i] for i in clouds.label] == ["Bag", "Airplane"]
    np.testing.assert_array_equal(clouds.part[0], rows("02773838/b1")[:, 6])
    points = decode_points(clouds.points)
    assert (np.sum(points * clouds.normals, axis=2) > -1).all()  # outward; normals are stored times 127


def test_a_part_of_another_category_is_named_by_row(text, hdf5, capsys, monkeypatch):
    monkeypatch.setattr("pointsuite.datasets.shapenetpart.COUNTS", {"train": 2, "val": 1, "test": 2})
    path = text / "02773838" / "b1.txt"
    table = rows("02773838/b1")
    table[6, 6] = 6
    np.savetxt(path, table, fmt="%.6f")
    error = failure(capsys, "shapenetpart", text, "--num-points", "32")
    assert "b1.txt: row 6: part 6, wanted 4 to 5 (Bag)" in error
    with h5py.File(hdf5 / "ply_data_test0.h5", "a") as file:
        file["pid"][1, 3] = 4
    error = failure(capsys, "shapenetpart", hdf5, *SMALL)
    assert "ply_data_test0.h5, key 'pid', shape 1, row 3: part 4, wanted 0 to 3 (Airplane)" in error


def test_what_is_missing(text, hdf5, tmp_path, capsys):
    (text / "02691156" / "a1.txt").unlink()
    error = failure(capsys, "shapenetpart", text, *SMALL)
    assert (
        "a1.txt: no such file (1 of 2 in shuffled_train_file_list.json). ShapeNetPart is offered at" in error
    )
    listing = text / "train_test_split" / "shuffled_train_file_list.json"
    listing.write_text('["shape_data/02691157/a1"]')
    assert f"{listing}, row 0: 'shape_data/02691157/a1', wanted" in failure(
        capsys, "shapenetpart", text, *SMALL
    )
    listing.write_text("{")
    assert "wanted JSON" in failure(capsys, "shapenetpart", text, *SMALL)
    listing.write_text('["shape_data/02691156/a1", 5]')
    assert "wanted a JSON list of names" in failure(capsys, "shapenetpart", text, *SMALL)
    listing.unlink()
    assert f"{listing}: no such file" in failure(capsys, "shapenetpart", text, *SMALL)
    (hdf5 / "ply_data_val0.h5").unlink()
    assert "ply_data_val0.h5: no such file, val_hdf5" in failure(capsys, "shapenetpart", hdf5, *SMALL)
    error = failure(capsys, "shapenetpart", tmp_path, *SMALL)
    assert "neither train_test_split nor train_hdf5_file_list.txt" in error
