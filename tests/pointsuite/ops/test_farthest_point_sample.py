import numpy as np
import pytest
import torch

from pointsuite.ops import farthest_point_sample

from . import reference
from .test_knn import cloud, grid

BACKENDS = ["torch", "numba"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "samples"), [(1, 1), (2, 2), (65, 65), (300, 40)])
def test_equals_brute_force(backend, dtype, size, samples):
    points = cloud(3, size, dtype=dtype)
    idx = farthest_point_sample(points, samples, backend=backend)
    assert idx.dtype == torch.int64
    for b in range(3):
        assert np.array_equal(idx[b].numpy(), reference.farthest_point_sample(points[b].numpy(), samples))


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_and_duplicates(backend):
    points = grid(2, 200)  # at most 64 different points: index 0 or another lowest index repeats at the end
    idx = farthest_point_sample(points, 100, backend=backend)
    for b in range(2):
        assert np.array_equal(idx[b].numpy(), reference.farthest_point_sample(points[b].numpy(), 100))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("points", [cloud(2, 1000), grid(2, 1000) / 3], ids=["general", "ties"])
def test_tree_equals_brute_force(points, dtype):
    points, valid, start = points.to(dtype), torch.tensor([1000, 150]), torch.tensor([7, 149])
    idx = farthest_point_sample(points, 130, start=start, valid=valid)
    for b in range(2):
        wanted = reference.farthest_point_sample(points[b, : valid[b]].numpy(), 130, int(start[b]))
        assert np.array_equal(idx[b].numpy(), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend):
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [5, 0, 0], [2, 0, 0]]])
    assert farthest_point_sample(points, 4, backend=backend).tolist() == [[0, 2, 3, 1]]
    assert farthest_point_sample(points, 2, start=3, backend=backend).tolist() == [[3, 2]]
    copies = torch.ones(1, 5, 3)
    assert farthest_point_sample(copies, 4, start=2, backend=backend).tolist() == [[2, 0, 0, 0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_valid_counts_and_starts(backend):
    points, valid, start = cloud(3, 50), torch.tensor([50, 9, 20]), torch.tensor([4, 8, 0])
    idx = farthest_point_sample(points, 9, start=start, valid=valid, backend=backend)
    for b in range(3):
        wanted = reference.farthest_point_sample(points[b, : valid[b]].numpy(), 9, int(start[b]))
        assert np.array_equal(idx[b].numpy(), wanted)


def test_prefix_is_the_smaller_choice():
    points = grid(2, 120)
    assert torch.equal(farthest_point_sample(points, 100)[:, :30], farthest_point_sample(points, 30))


def test_compiles_and_passes_opcheck():
    points = cloud(2, 30)
    compiled = torch.compile(lambda p: farthest_point_sample(p, 4) + 1, fullgraph=True, backend="eager")
    assert torch.equal(compiled(points), farthest_point_sample(points, 4) + 1)
    arguments = (points, 4, torch.zeros(2, dtype=torch.int64), None, "numba")
    torch.library.opcheck(torch.ops.pointsuite.farthest_point_sample, arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, found 0"),
        ({"num_samples": 11}, "num_samples=11 for 10 points"),
        ({"start": 10}, "start must be the index of a point"),
        ({"start": -1}, "start must be the index of a point"),
        ({"start": torch.zeros(3, dtype=torch.int64)}, "start must be an int or an int64 tensor"),
        ({"points": torch.zeros(10, 3)}, r"found \(10, 3\)"),
        ({"points": torch.full((2, 10, 3), torch.nan)}, "points must be finite"),
        ({"valid": torch.tensor([10, 3])}, "num_samples=4 for 3 in cloud 1"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        farthest_point_sample(**({"points": torch.zeros(2, 10, 3), "num_samples": 4} | change))
