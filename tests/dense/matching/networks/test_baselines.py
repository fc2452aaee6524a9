"""Nearest neighbours against loops; no motion."""

import numpy as np
import pytest
import torch

from dense.matching.metrics import transfer_keypoints
from dense.matching.model import DenseMatcher
from dense.matching.networks.baselines import MutualNearestNeighbours, NoMotion
from dense.registry import MODELS

from ..toy import ToyBackbone


class Given(torch.nn.Module):
    """A backbone whose maps are given, by turns; images say nothing."""

    def __init__(self, *maps):
        super().__init__()
        self.maps = maps

    def forward(self, x):
        return self.maps


@pytest.mark.parametrize("seed", range(4))
def test_nearest_neighbours_by_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    grid, size = 4, 16
    features = torch.randn(2, 5, grid, grid, generator=generator)
    images = torch.zeros(1, 3, size, size)
    flow, confidence = MutualNearestNeighbours(Given(features)).match(images, images)
    assert flow.shape == (1, 2, size, size) and confidence.shape == (1, size, size)

    unit = (features / features.norm(dim=1, keepdim=True)).flatten(2).numpy()
    similarity = unit[0].T @ unit[1]  # source, target
    moves, middles = [], []
    mutual = np.zeros((grid, grid))
    for t in range(grid * grid):
        s = similarity[:, t].argmax()
        if similarity[s].argmax() == t:
            mutual[t // grid, t % grid] = 1
            here, there = np.array((t % grid, t // grid)), np.array((s % grid, s // grid))
            moves.append((there - here) * size / grid)
            middles.append((here + 0.5) * size / grid - 0.5)
    assert moves
    np.testing.assert_array_equal(confidence[0], mutual.repeat(4, 0).repeat(4, 1))
    for y in range(size):
        for x in range(size):
            distance = np.linalg.norm(np.array(middles) - (x, y), axis=1)
            nearest = [move for move, d in zip(moves, distance, strict=True) if d < distance.min() + 1e-9]
            assert any((flow[0, :, y, x].numpy() == move).all() for move in nearest)


def test_a_shifted_map_is_found():
    """Of unique features that lie two cells to the right in the source, all that are in both images match."""
    target = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    source = torch.roll(target, 2, 3)
    network = MutualNearestNeighbours(Given(torch.cat((source, target))))
    images = torch.zeros(1, 3, 24, 24)
    flow, confidence = network.match(images, images)
    assert (confidence == 1).all() and network(images, images)[0].equal(flow)
    assert (flow[0, 0, :, :16] == 8).all() and (flow[0, 1] == 0).all()
    points = torch.tensor([[3.0, 5.0], [10.7, 20.2]])
    torch.testing.assert_close(
        transfer_keypoints(flow[0], points, 24, whole=True), points.trunc() + torch.tensor([8.0, 0])
    )


def test_maps_are_put_on_the_largest_grid():
    torch.manual_seed(0)
    backbone = ToyBackbone().eval()
    images = torch.rand(2, 3, 32, 32)
    features, grid = MutualNearestNeighbours(backbone).extract(images)
    assert grid == 8 and features.shape == (2, 64, 8 + 16)
    torch.testing.assert_close(features.norm(dim=-1), torch.full((2, 64), 2**0.5), atol=1e-2, rtol=0)
    features, grid = MutualNearestNeighbours(backbone, indices=[1]).extract(images)
    assert grid == 4 and features.shape == (2, 16, 16)


def test_a_pair_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    network = MutualNearestNeighbours(ToyBackbone()).eval()
    source, target = torch.rand(2, 3, 3, 32, 32)
    with torch.no_grad():
        whole = network.match(source, target)
        for i in range(3):
            alone = network.match(source[i : i + 1], target[i : i + 1])
            for found, wanted in zip(whole, alone, strict=True):
                assert found[i].equal(wanted[0])


def test_no_motion_leaves_points_where_they_are():
    network = MODELS.build({"type": "NoMotion", "grid": 4})
    assert isinstance(network, NoMotion)
    source = torch.rand(2, 3, 16, 16)
    (flow,) = network(source, source)
    assert flow.equal(torch.zeros(2, 2, 4, 4))
    points = torch.tensor([[3.0, 5.0]])
    assert transfer_keypoints(flow[0], points, 16, whole=True).equal(points)
    sample = DenseMatcher(network)(torch.rand(1, 2, 3, 16, 16), mode="predict")[0]
    assert sample.pred_confidence.equal(torch.ones(4, 4))
