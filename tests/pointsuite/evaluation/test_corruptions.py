import numpy as np
import pytest
import torch
from torch import nn

from pointsuite.datasets import Clouds, FileInfo, PointCloudDataset, write_clouds
from pointsuite.datasets.layout import encode_normals, encode_points
from pointsuite.engine.corruptions import format_corruptions, mean_accuracy
from pointsuite.evaluation import evaluate_corruptions
from pointsuite.visualization import draw_corruptions

COUNT = 80
PIPELINE = [
    {"type": "SamplePoints", "num": COUNT, "method": "first"},
    {"type": "NormalizeUnitSphere"},
    {"type": "PackPoints"},
]


def make_dataset(tmp_path, pipeline=PIPELINE):
    """Spheres whose normals point outwards (class 0) or inwards (class 1)."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((12, 100, 3))
    points /= np.linalg.norm(points, axis=2, keepdims=True)
    label = np.arange(12) % 2
    normals = np.where(label[:, None, None] == 1, -points, points)
    clouds = Clouds(encode_points(points), encode_normals(normals), label.astype(np.uint8))
    write_clouds(tmp_path / "toy.h5", {"test": clouds}, FileInfo(("out", "in")))
    return PointCloudDataset(tmp_path / "toy.h5", "test", pipeline, test_mode=True)


class Side(nn.Module):
    """By the share of normals that point outwards; keeps what it is given."""

    def __init__(self, share=0.5, wanted=0):
        super().__init__()
        self.share, self.wanted, self.given = share, wanted, []

    def forward(self, points):
        if points.shape[1] < self.wanted:
            raise ValueError(f"wanted {self.wanted} points")
        self.given.append(points)
        outward = ((points[..., :3] * points[..., 3:]).sum(-1) > 0).float().mean(1)
        return torch.stack([outward - self.share, self.share - outward], 1)


def test_results(tmp_path):
    network = Side().train()
    results = evaluate_corruptions(network, make_dataset(tmp_path))
    assert network.training and len(results) == 10
    accuracy = {name: result.overall_accuracy for name, result in results.items()}
    assert accuracy["clean"].tolist() == [100] and results["clean"].predictions.shape == (1, 12)
    assert results["jitter"].predictions.shape == (5, 12) and results["jitter"].levels[4] == 0.05
    assert accuracy["jitter"].tolist() == [100] * 5  # the side survives noise on points
    assert accuracy["normals, noise"][0] == 100
    assert accuracy["normals, estimated"].tolist() == [50] * 5  # all outwards: the truth is lost
    assert accuracy["normals, flipped"][0] == 100 > accuracy["normals, flipped"][4]
    mean = np.mean([values.mean() for name, values in accuracy.items() if name != "clean"])
    assert mean_accuracy(results) == pytest.approx(mean)


def test_what_the_network_is_given(tmp_path):
    network = Side(wanted=60)
    evaluate_corruptions(network, make_dataset(tmp_path), ["dropout, global", "outliers"], [2, 5])
    *probes, clean, half, quarter, outliers, many = network.given
    assert clean.shape == (12, COUNT, 6)
    # 37.5 % and 75 % missing of 80 are 50 and 20 left: both are filled up to what the network needs
    assert half.shape[1] == quarter.shape[1] == 60
    assert len(half[0].unique(dim=0)) == 50 and len(quarter[0].unique(dim=0)) == 20
    assert (half[..., :3].norm(dim=2).amax(1) - 1).abs().max() < 1e-5  # scaled again
    assert many.shape[1] == COUNT and (many - clean).abs().amax(2).gt(0.2).sum(1).max() == 4
    assert all(probe.shape[0] == 1 for probe in probes)


def test_seed_and_subset(tmp_path):
    dataset, runs = make_dataset(tmp_path), []
    for seed in (0, 0, 1):
        network = Side()
        results = evaluate_corruptions(network, dataset, ["jitter"], [3], max_samples=4, seed=seed)
        runs.append(network.given[-1])
        assert results["jitter"].labels.tolist() == dataset.clouds.label[[0, 4, 7, 11]].tolist()
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_table_and_picture(tmp_path):
    results = evaluate_corruptions(Side(), make_dataset(tmp_path), ["jitter", "normals, estimated"], [1, 4])
    title, clean, jitter, estimated, mean = format_corruptions(results).splitlines()
    assert title.split() == ["corruption", "severity", "1", "severity", "4", "mean"]
    assert clean.split() == ["clean", "100.00"] and jitter.split() == ["jitter", "100.00", "100.00", "100.00"]
    assert estimated.split()[-3:] == ["50.00"] * 3 and mean.split()[-1] == "75.00"
    lines = {name: (r.severities, r.overall_accuracy) for name, r in results.items() if name != "clean"}
    assert draw_corruptions(100, lines, tmp_path / "a.png").stat().st_size > 5_000


@pytest.mark.parametrize("pipeline", [[{"type": "PackPoints"}], [{"type": "NormalizeUnitSphere"}]])
def test_pipelines_without_scale_or_packing(tmp_path, pipeline):
    with pytest.raises(ValueError, match="must have NormalizeUnitSphere.* and end in PackPoints, found"):
        evaluate_corruptions(Side(), make_dataset(tmp_path, pipeline))


def test_bad_requests(tmp_path):
    dataset = make_dataset(tmp_path)
    with pytest.raises(ValueError, match="corruption 'rain', wanted one of 'jitter'"):
        evaluate_corruptions(Side(), dataset, ["rain"])
    with pytest.raises(ValueError, match="severity is 6, wanted 1 to 5"):
        evaluate_corruptions(Side(), dataset, ["jitter"], [6])
