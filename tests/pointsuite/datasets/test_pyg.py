from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import ClassBalancedDataset, RepeatDataset

from pointsuite.datasets import DatasetError
from pointsuite.datasets.pyg import PyGDataset, PyGTransform, from_pyg, to_pyg
from pointsuite.engine.randomness import drawing
from pointsuite.transforms import NormalizeUnitSphere, PackPoints, RandomJitter, SamplePoints


def data(count=20, seed=0, **fields):
    generator = torch.Generator().manual_seed(seed)
    pos = torch.randn(count, 3, generator=generator)
    return SimpleNamespace(pos=pos, **fields)


def test_a_shape_with_normals_and_label():
    sample = from_pyg(data(normal=torch.full((20, 3), 2.0), y=torch.tensor([4]), name="chair"), index=3)
    assert np.array_equal(sample["points"], data().pos.numpy()) and sample["points"].dtype == np.float32
    assert sample["normals"] == pytest.approx(3**-0.5)
    assert (sample["label"], sample["index"], sample["name"]) == (4, 3, "chair")
    assert "part" not in sample
    assert sample["rng"].random() == np.random.default_rng([0, 0, 3]).random()


def test_the_fields_of_shapenet():
    normals, parts = torch.eye(3).repeat(4, 1), torch.arange(12)
    sample = from_pyg(data(12, x=normals, y=parts, category=torch.tensor([7])), normals="x")
    assert np.array_equal(sample["normals"], normals) and np.array_equal(sample["part"], parts)
    assert sample["label"] == 7


def test_only_points():
    assert set(from_pyg(data(x=torch.zeros(20, 5)))) == {"points", "index", "rng"}


def test_colours_in_x_are_no_normals():
    """Features (N, 3) become normals only where that is asked for; what then needs normals says so."""
    sample = from_pyg(data(x=torch.rand(20, 3)))
    assert "normals" not in sample
    with pytest.raises(ValueError, match="PackPoints: sample 0 has no normals, wanted some; EstimateNormals"):
        PackPoints()(SamplePoints(8)(sample))
    with pytest.raises(ValueError, match="found no 'colour'"):
        from_pyg(data(), normals="colour")


def test_unlabelled_points():
    assert from_pyg(data(3, part=torch.tensor([0, 255, -1])))["part"].tolist() == [0, -100, -100]


def test_points_far_from_the_origin_have_an_offset():
    pos = torch.tensor([[0.0, 0, 0], [300, 0.2, 0], [150, 0.61, 0]]).double()
    survey = pos + torch.tensor([500_000, 4_649_776, 300]).double()
    sample = from_pyg(SimpleNamespace(pos=survey))
    assert sample["points"].dtype == np.float32
    np.testing.assert_allclose(sample["points"] + sample["offset"], survey, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"y": torch.tensor([1.7])}, r"label must be whole numbers, found 1.7\d* of type torch.float32"),
        ({"y": torch.tensor([True])}, "label must be whole numbers, found True of type torch.bool"),
        ({"part": torch.full((20,), 0.5)}, "part must be whole numbers, found 0.5"),
        ({"pos": torch.full((20, 3), torch.nan)}, "found 20 of 20 points that are NaN or infinite"),
        ({"pos": torch.zeros(4, 2)}, r"pos must have shape \(N, 3\), found \(4, 2\)"),
        ({"normal": torch.zeros(5, 3)}, r"normals must have shape \(20, 3\), found \(5, 3\)"),
        ({"y": torch.zeros(7)}, r"label must hold 1 numbers, found shape \(7,\)"),
        ({"part": torch.zeros(7)}, r"part must hold 20 numbers, found shape \(7,\)"),
    ],
)
def test_bad_data(fields, message):
    sample = data()
    vars(sample).update(fields)
    with pytest.raises(ValueError, match=message):
        from_pyg(sample)


def test_a_dataset_of_theirs_is_one_of_ours():
    clouds = [data(30, seed=i, normal=torch.eye(3).repeat(10, 1), y=torch.tensor([i % 2])) for i in range(5)]
    pipeline = [{"type": "pointsuite.SamplePoints", "num": 16}, RandomJitter(), PackPoints()]
    dataset = PyGDataset(clouds, pipeline, classes=("a", "b"), seed=3)
    assert len(dataset) == 5 and dataset.metainfo["classes"] == ("a", "b")
    packed = dataset[-1]
    assert packed["inputs"].shape == (16, 6) and int(packed["data_samples"].gt_label) == 0
    assert packed["data_samples"].index == 4
    assert torch.equal(dataset[4]["inputs"], packed["inputs"])
    with drawing(0, 1, 4):
        assert not torch.equal(dataset[4]["inputs"], packed["inputs"])
    assert len(RepeatDataset(dataset, 3)) == 15 and len(ClassBalancedDataset(dataset, 0.5)) == 7
    assert dataset.get_subset([3, 1])[0]["data_samples"].gt_label == 1
    with pytest.raises(IndexError, match="index 5 is out of range, the dataset has 5 clouds"):
        dataset[5]
    with pytest.raises(DatasetError, match="0 clouds, wanted at least 1"):
        PyGDataset([])


def test_there_and_back():
    pytest.importorskip("torch_geometric")
    sample = from_pyg(data(12, normal=torch.eye(3).repeat(4, 1), y=torch.tensor([5]), part=torch.arange(12)))
    sample["name"] = "lamp"
    for form in (sample, PackPoints()(sample)):
        theirs = to_pyg(form)
        assert theirs.num_nodes == 12 and theirs.y.tolist() == [5]
        again = from_pyg(theirs)
        for key in ("points", "normals", "label", "part", "name"):
            assert np.array_equal(again[key], sample[key]), key


def test_our_transforms_in_their_datasets():
    Data = pytest.importorskip("torch_geometric.data").Data
    transform = PyGTransform(SamplePoints(8), NormalizeUnitSphere(), seed=1)
    theirs = Data(pos=torch.randn(30, 3), y=torch.tensor([2]))
    found = transform(theirs)
    assert found.pos.shape == (8, 3) and found.y.tolist() == [2]
    assert found.pos.norm(dim=1).max() == pytest.approx(1)
    assert not torch.equal(transform(theirs).pos, found.pos)
