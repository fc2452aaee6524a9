"""What is said of clouds before a run."""

import re

import numpy as np
import pytest
from torch import nn

from pointsuite.datasets import Clouds, FileInfo, PointCloudDataset, write_clouds
from pointsuite.datasets.layout import encode_normals, encode_points
from pointsuite.engine.errors import UsageError
from pointsuite.engine.runner.preflight import look
from pointsuite.transforms.report import judge_normals


def boxes(count=4, points=256, seed=0):
    """Points on boxes with a wall inside, and true normals."""
    rng = np.random.default_rng(seed)
    clouds = rng.uniform(-0.5, 0.5, (count, points, 3))
    normals = np.zeros_like(clouds)
    axes, sides = rng.integers(3, size=(count, points)), rng.choice([-1, 1], (count, points))
    for cloud, normal, axis, side in zip(clouds, normals, axes, sides, strict=True):
        rows = np.arange(points)
        cloud[rows, axis], normal[rows, axis] = side * 0.5, side
        wall = rows[: points // 5]
        cloud[wall, 2], normal[wall] = 0.3, (0, 0, -1)
    return clouds, normals


def dataset(folder, *steps, up="z", normals=None):
    clouds, true = boxes()
    stored = Clouds(
        encode_points(clouds), encode_normals(true if normals is None else normals), np.arange(4) % 2
    )
    write_clouds(folder / "a.h5", {"train": stored}, FileInfo(("a", "b"), licence="CC0-1.0", up=up))
    return PointCloudDataset(folder / "a.h5", "train", steps)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"type": "RandomRotate"}, "y points up; turned at random about y"),
        ({"type": "RandomRotate", "axis": 1}, "y points up; turned at random about y"),
        ({"type": "RandomRotate", "axis": 2}, "y points up; turned at random about z, WHICH LIES LEVEL: .*"),
        ({"type": "RandomRotate", "mode": "so3"}, "y points up; turned at random in all directions"),
        ({"type": "RandomRotate", "mode": "none"}, "y points up"),
    ],
)
def test_up_and_what_turns_about_it(tmp_path, step, said):
    lines = look("train", dataset(tmp_path, step, up="y"), nn.Identity())
    (line,) = [line for line in lines if "points up" in line]
    assert re.fullmatch(f"train data: {said}", line)


def test_how_normals_look(tmp_path):
    rng = np.random.default_rng(0)
    clouds, true = boxes()
    outward = np.sign((clouds * true).sum(-1, keepdims=True)) * true
    signs = rng.choice([-1, 1], (*true.shape[:2], 1))
    for normals, said in (
        (true, "look like those of surfaces"),
        (outward, "look estimated: all point away"),
        (true * signs, "look estimated, without a common side"),
    ):
        samples = [{"points": p, "normals": n} for p, n in zip(clouds, normals, strict=True)]
        assert judge_normals(samples).startswith(said)
    lines = look("val", dataset(tmp_path, normals=outward), nn.Identity())
    assert any(line.startswith("val data: normals look estimated: all point away") for line in lines)
    lines = look("val", dataset(tmp_path, {"type": "EstimateNormals"}), nn.Identity())
    assert "val data: normals are estimated by the pipeline" in lines


def test_clouds_without_normals(tmp_path):
    class Bare(PointCloudDataset):
        def get_data_info(self, index):
            return {key: value for key, value in super().get_data_info(index).items() if key != "normals"}

    dataset(tmp_path)
    for steps, said in (((), "train data: no normals"), (({"type": "EstimateNormals"},), "estimated by the")):
        data = Bare(tmp_path / "a.h5", "train", steps)
        assert any(said in line for line in look("train", data, nn.Identity()))
    with pytest.raises(UsageError, match="train data: sample 0 has no normals, which the network takes"):
        look("train", Bare(tmp_path / "a.h5", "train", ({"type": "PackPoints"},)), nn.Identity())


def test_labels_beyond_the_classes(tmp_path):
    class Wrong(PointCloudDataset):
        def get_data_info(self, index):
            return {**super().get_data_info(index), "label": 9}

    dataset(tmp_path)
    with pytest.raises(UsageError, match="sample 0 has the label 9, wanted 0 to 1 for the classes a, b"):
        look("train", Wrong(tmp_path / "a.h5", "train"), nn.Identity())
