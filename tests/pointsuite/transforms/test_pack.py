import numpy as np
import torch

from pointsuite.datasets import PointDataSample
from pointsuite.transforms import PackPoints


def make_sample():
    rng = np.random.default_rng(0)
    points, normals = rng.standard_normal((2, 8, 3)).astype(np.float32)
    return {"points": points, "normals": normals, "label": 2, "index": 7, "rng": rng}


def test_inputs_are_xyz_and_normal():
    sample = make_sample()
    packed = PackPoints()(sample)
    assert set(packed) == {"inputs", "data_samples"}
    assert packed["inputs"].shape == (8, 6) and packed["inputs"].dtype == torch.float32
    np.testing.assert_array_equal(packed["inputs"][:, :3], sample["points"])
    np.testing.assert_array_equal(packed["inputs"][:, 3:], sample["normals"])


def test_data_sample():
    packed = PackPoints()(make_sample())["data_samples"]
    assert isinstance(packed, PointDataSample)
    assert packed.gt_label.shape == () and packed.gt_label.dtype == torch.int64 and packed.gt_label == 2
    assert packed.metainfo == {"index": 7} and "gt_part" not in packed
    full = PackPoints()({**make_sample(), "part": np.arange(8), "name": "a"})["data_samples"]
    assert full.metainfo == {"index": 7, "name": "a"}
    assert full.gt_part.tolist() == list(range(8)) and full.gt_part.dtype == torch.int64
    full.pred_label = torch.tensor(1)
    assert full.to_dict()["pred_label"] == 1
