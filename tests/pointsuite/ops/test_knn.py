import importlib

import numpy as np
import pytest
import torch

from pointsuite.ops import ball_query, knn

from . import reference

BACKENDS = ["torch", "numba"]
module = importlib.import_module("pointsuite.ops.knn")


def cloud(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def grid(*shape, seed=0):
    """Integer coordinates: many exact ties and duplicates."""
    return torch.randint(0, 4, (*shape, 3), generator=torch.Generator().manual_seed(seed)).float()


def check(found, query, points, k, counts=None):
    idx, sqdist = found
    assert idx.dtype == torch.int64 and sqdist.dtype == points.dtype
    for b in range(len(points)):
        n = points.shape[1] if counts is None else counts[b]
        wanted, distance = reference.knn(query[b].numpy(), points[b, :n].numpy(), k)
        assert np.array_equal(idx[b].numpy(), wanted)
        assert np.array_equal(sqdist[b].numpy(), distance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "k"), [(1, 1), (17, 17), (100, 1), (301, 9), (64, 40)])
def test_equals_brute_force(backend, dtype, size, k):
    query, points = cloud(2, 13, dtype=dtype), cloud(2, size, dtype=dtype, seed=1)
    check(knn(query, points, k, backend=backend), query, points, k)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_lowest_index(backend):
    points = grid(2, 90)
    check(knn(points, points, 12, backend=backend), points, points, 12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend):
    points = torch.tensor([[[0.0, 0, 0], [3, 0, 0], [1, 0, 0], [1, 0, 0]]])
    idx, sqdist = knn(points[:, :1], points, 4, backend=backend)
    assert idx.tolist() == [[[0, 2, 3, 1]]]
    assert sqdist.tolist() == [[[0, 1, 1, 9]]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_valid_counts(backend):
    query, points = cloud(3, 5), cloud(3, 40, seed=1)
    valid = torch.tensor([40, 7, 20])
    check(knn(query, points, 7, valid=valid, backend=backend), query, points, 7, valid.tolist())


@pytest.mark.parametrize("points", [cloud(2, 700), grid(2, 700)], ids=["general", "ties"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tree_equals_scan(points, dtype):
    points = points.to(dtype)
    check(knn(points, points, 20), points, points, 20)
    query = points[:, :150] + 0.5  # off the grid: ties between different points
    valid = torch.tensor([700, 90])
    check(knn(query, points, 20, valid=valid), query, points, 20, valid.tolist())


def test_tree_with_all_points(monkeypatch):
    monkeypatch.setattr(module, "TREE_POINTS", 0)
    monkeypatch.setattr(module, "TREE_QUERIES", 0)
    points = grid(1, 30)
    check(knn(points, points, 30), points, points, 30)


@pytest.mark.parametrize("points", [torch.ones(1, 500, 3), torch.arange(1500.0).view(1, 500, 3)])
def test_tree_of_degenerate_clouds(points):
    check(knn(points, points, 5), points, points, 5)


def test_tree_of_a_cloud_large_enough_for_several_threads():
    points = grid(1, 20000) + torch.arange(20000).view(1, -1, 1) // 64 * 4.0
    found, sqdist = knn(points, points, 3)
    rows = torch.arange(0, 20000, 997)
    wanted, distance = reference.knn(points[0, rows].numpy(), points[0].numpy(), 3)
    assert np.array_equal(found[0, rows], wanted) and np.array_equal(sqdist[0, rows], distance)


def test_non_contiguous_input_and_views():
    points = cloud(2, 50)
    strided = torch.cat([points, points], -1)[..., :3]
    check(knn(strided, points.transpose(0, 1).contiguous().transpose(0, 1), 5), points, points, 5)


def test_more_queries_than_a_thread_takes_at_once():
    points = cloud(1, 2000)
    check(knn(points, points, 3), points, points, 3)


def test_compiles_and_passes_opcheck():
    points = cloud(2, 30)
    compiled = torch.compile(lambda p: knn(p, p, 4)[0] + 1, fullgraph=True, backend="eager")
    assert torch.equal(compiled(points), knn(points, points, 4)[0] + 1)
    torch.library.opcheck(torch.ops.pointsuite.knn, (points, points, 4, None, 4, 1.0, "numba"))


def test_has_no_gradient():
    points = cloud(1, 10).requires_grad_()
    assert not knn(points, points, 3)[1].requires_grad


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be at least 1, found 0"),
        ({"k": 11}, ValueError, "k=11 for 10 points"),
        ({"points": torch.zeros(2, 10)}, ValueError, r"points must have shape \(B, N, 3\), found \(2, 10\)"),
        ({"points": torch.zeros(2, 0, 3)}, ValueError, "at least one cloud of one point"),
        ({"points": torch.zeros(0, 10, 3)}, ValueError, "at least one cloud of one point"),
        ({"points": torch.zeros(3, 10, 3)}, ValueError, "same number of clouds, found 2 and 3"),
        ({"points": torch.zeros(2, 10, 3, dtype=torch.float64)}, TypeError, "must have one dtype"),
        (
            {"points": torch.zeros(2, 10, 3, dtype=torch.int64)},
            TypeError,
            "float32 or float64, found torch.int64",
        ),
        ({"points": np.zeros((2, 10, 3))}, TypeError, "must be a torch.Tensor, found ndarray"),
        ({"points": torch.zeros(2, 10, 3, device="meta")}, ValueError, "one device, found cpu and meta"),
        (
            {"points": torch.full((2, 10, 3), torch.nan)},
            ValueError,
            "points must be finite, found .nan.*cloud 0, point 0",
        ),
        ({"query": torch.full((2, 4, 3), torch.inf)}, ValueError, "query must be finite"),
        ({"valid": torch.tensor([10, 2])}, ValueError, "k=3 for 2 in cloud 1"),
        ({"valid": torch.tensor([10, 11])}, ValueError, "between 1 and 10, found 10 to 11"),
        ({"valid": torch.tensor([10, 0])}, ValueError, "between 1 and 10, found 0 to 10"),
        ({"valid": torch.tensor([10])}, ValueError, "valid must be int64 of shape"),
        ({"backend": "gpu"}, ValueError, "backend must be one of"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"query": torch.zeros(2, 4, 3), "points": torch.zeros(2, 10, 3), "k": 3} | change
    with pytest.raises(error, match=message):
        knn(**arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ball_query(backend):
    points = torch.tensor([[[0.0, 0, 0], [2, 0, 0], [1, 0, 0], [9, 9, 9]]])
    query = torch.tensor([[[0.0, 0, 0], [-5, 0, 0]]])
    idx, count = ball_query(query, points, 2.0, 6, backend=backend)
    assert count.tolist() == [[3, 0]]  # a point at exactly the radius belongs
    assert idx.tolist() == [[[0, 2, 1, 0, 0, 0], [-1] * 6]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_ball_query_of_ragged_clouds(backend):
    points = cloud(2, 30)
    valid = torch.tensor([2, 30])
    idx, count = ball_query(points[:, :1], points, 100.0, 5, valid=valid, backend=backend)
    assert count.tolist() == [[2], [5]]
    assert set(idx[0, 0].tolist()) == {0, 1}
    assert idx[1, 0].tolist() == reference.knn(points[1, :1].numpy(), points[1].numpy(), 5)[0][0].tolist()


@pytest.mark.parametrize("radius", [0, -1, float("nan"), float("inf")])
def test_ball_query_bad_radius(radius):
    with pytest.raises(ValueError, match="radius must be positive and finite"):
        ball_query(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3), radius, 1)
