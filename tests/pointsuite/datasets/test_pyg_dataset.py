"""Data sets of PyTorch Geometric, read by its own classes from releases that a test made."""

import json

import numpy as np
import pytest

from pointsuite.datasets.layout import decode_normals, decode_points

from .prepare import OFF_BOX, failure, prepare

datasets = pytest.importorskip("torch_geometric.datasets")
MODELNET10 = [
    "bathtub",
    "bed",
    "chair",
    "desk",
    "dresser",
    "monitor",
    "night_stand",
    "sofa",
    "table",
    "toilet",
]


@pytest.fixture
def modelnet(tmp_path):
    for name in MODELNET10:
        for split in ("train", "test"):
            folder = tmp_path / "ModelNet" / "raw" / name / split
            folder.mkdir(parents=True)
            (folder / f"{name}_0001.off").write_text(OFF_BOX)
    return tmp_path / "ModelNet"


def test_meshes(modelnet):
    clouds, info = prepare("pyg", modelnet, "--dataset", "ModelNet", "--num-points", "64")
    assert len(clouds) == 10 and clouds.label.tolist() == list(range(10)) and len(info.classes) == 10
    points, normals = decode_points(clouds.points), decode_normals(clouds.normals)
    assert points.shape == (10, 64, 3)
    # on the faces of a box, whose normals are the axes
    np.testing.assert_allclose(np.abs(normals).max(2), 1, atol=1e-2)
    assert np.abs(np.linalg.norm(points, axis=2).max(1) - 1).max() < 1e-3


@pytest.fixture
def shapenet(tmp_path):
    root = tmp_path / "ShapeNet" / "raw"
    identifiers = datasets.ShapeNet.category_ids
    for identifier in identifiers.values():
        (root / identifier).mkdir(parents=True)
    (root / "train_test_split").mkdir()
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        paths = []
        for label, name in enumerate(("Chair", "Table")):
            table = rng.normal(size=(40, 7))
            table[:, 3:6] /= np.linalg.norm(table[:, 3:6], axis=1, keepdims=True)
            table[:, 6] = 12 + rng.integers(0, 4, 40) if name == "Chair" else 47 + rng.integers(0, 3, 40)
            np.savetxt(root / identifiers[name] / f"{split}{label}.txt", table)
            paths.append(f"shape_data/{identifiers[name]}/{split}{label}")
        (root / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(json.dumps(paths))
    return tmp_path / "ShapeNet"


def test_clouds_with_parts(shapenet):
    options = ("--dataset", "ShapeNet", "--normals", "x", "--num-points", "32")
    clouds, info = prepare("pyg", shapenet, *options)
    assert len(clouds) == 2 and clouds.part.shape == (2, 32)
    assert set(np.unique(clouds.part[0])) <= set(range(12, 16))
    assert len(info.part_classes) == 50
    kept, _ = prepare("pyg", shapenet, *options, "--options", "categories=[Chair,Table]", split="val")
    assert len(kept) == 2


def test_bad_input(modelnet, capsys):
    small = ("--num-points", "64")
    assert "no 'ModelNets'; near are ['ModelNet'" in failure(
        capsys, "pyg", modelnet, "--dataset", "ModelNets", *small
    )
    error = failure(capsys, "pyg", modelnet, "--dataset", "ModelNet", "--options", "nam=10", *small)
    assert "ModelNet has no option 'nam'; it has" in error
    error = failure(capsys, "pyg", modelnet, "--dataset", "ModelNet", "--options", "name=11", *small)
    assert "ModelNet" in error and "name=11" in error
