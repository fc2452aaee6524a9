import numpy as np
import pytest
import torch

pytest.importorskip("triton")
from pointsuite.ops.triton import knn as module
from pointsuite.ops.triton.knn import MAX_K, knn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=["scan", "search"])
def path(request, monkeypatch):
    """Both kernels; the search through boxes is for large clouds."""
    if request.param == "search":
        search_everything(monkeypatch)


def brute_force(query, points, k, counts=None):
    """Every distance, then a sort by (distance, index); spare slots hold index 0 at infinity."""
    batch, size = query.shape[:2]
    idx = np.zeros((batch, size, k), np.int64)
    sqdist = np.full((batch, size, k), np.inf, points.dtype)
    for b in range(batch):
        cloud = points[b] if counts is None else points[b, : counts[b]]
        for s in range(size):
            x, y, z = (query[b, s] - cloud).T
            distance = (x * x + y * y) + z * z
            order = np.lexsort((np.arange(len(cloud)), distance))[:k]
            idx[b, s, : len(order)] = order
            sqdist[b, s, : len(order)] = distance[order]
    return idx, sqdist


def check(query, points, k, counts=None):
    want_idx, want_sqdist = brute_force(query, points, k, counts)
    counts = None if counts is None else torch.tensor(counts, device=DEVICE)
    idx, sqdist = knn(torch.tensor(query, device=DEVICE), torch.tensor(points, device=DEVICE), k, counts)
    assert idx.dtype == torch.int64 and sqdist.dtype == torch.tensor(points).dtype
    np.testing.assert_array_equal(sqdist.cpu().numpy(), want_sqdist)  # to the bit
    np.testing.assert_array_equal(idx.cpu().numpy(), want_idx)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "batch,size,number,k",
    [(1, 1, 1, 1), (2, 5, 131, 4), (1, 3, 40, 40), (3, 1, 260, 33), (1, 2, 128, 128), (1, 4, 600, 9)],
)
def test_equals_brute_force(path, batch, size, number, k, dtype):
    rng = np.random.default_rng(number)
    query = rng.standard_normal((batch, size, 3)).astype(dtype)
    points = rng.standard_normal((batch, number, 3)).astype(dtype)
    check(query, points, k)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("side", [1, 2, 5])
def test_ties_go_to_the_lowest_index(path, side, dtype):
    # side 1: all 400 points coincide, more than the buffer holds.
    rng = np.random.default_rng(side)
    points = rng.integers(0, side, (1, 400, 3)).astype(dtype)
    check(points[:, ::200].copy(), points, 20)


def test_hand_checked(path):
    points = np.array([[[0, 0, 0], [2, 0, 0], [0, 1, 0], [-1, 0, 0]]], np.float32)
    idx, sqdist = knn(torch.tensor(points[:, :1], device=DEVICE), torch.tensor(points, device=DEVICE), 4)
    assert idx.tolist() == [[[0, 2, 3, 1]]]
    assert sqdist.tolist() == [[[0.0, 1.0, 1.0, 4.0]]]


def test_poor_limit_and_full_buffer():
    # Of 128 columns only 16 hold near points, so the 32nd smallest column minimum is far off and lets pass
    # all near ones. They fill the buffer; one of the 32 nearest comes after it has been emptied.
    x = np.arange(1500, dtype=np.float32) + 100
    near = np.flatnonzero(np.arange(1500) % 128 < 16)
    x[near] = 3
    x[near[:80]] = 1 + 0.01 * np.random.default_rng(0).permutation(80)
    x[near[150]] = 1.305
    points = np.stack([x, 0 * x, 0 * x], -1)[None]
    check(np.zeros((1, 1, 3), np.float32), points, 32)


def test_ragged_counts_ignore_padding(path):
    rng = np.random.default_rng(5)
    points = rng.standard_normal((3, 150, 3)).astype(np.float32)
    query = points[:, :4].copy()
    counts = [150, 12, 129]
    for cloud, count in zip(points, counts, strict=True):
        cloud[count:] = query[0, 0]  # padding is nearer than all else
    check(query, points, 12, counts)


def test_spare_slots_are_infinitely_far(path):
    rng = np.random.default_rng(6)
    points = rng.standard_normal((2, 9, 3)).astype(np.float32)
    check(points[:, :3].copy(), points, 5, [9, 2])


def test_float64_tells_apart_what_float32_cannot(path):
    points = np.zeros((1, 3, 3))
    points[0, :, 0] = [1 + 2e-12, 1 + 1e-12, 1]
    query = torch.zeros(1, 1, 3, dtype=torch.float64, device=DEVICE)
    idx, _ = knn(query, torch.tensor(points, device=DEVICE), 3)
    assert idx.tolist() == [[[2, 1, 0]]]


def test_extreme_scales(path):
    rng = np.random.default_rng(7)
    points = rng.standard_normal((1, 200, 3)) * 10.0 ** rng.uniform(-18, 15, (1, 200, 1))
    check(np.zeros((1, 1, 3), np.float32), points.astype(np.float32), 100)


def search_everything(monkeypatch):
    monkeypatch.setattr(module, "SEARCH_POINTS", 0)
    monkeypatch.setattr(module, "SEARCH_DISTANCES", 0)


@pytest.mark.parametrize("k", [3, 40])
def test_search_far_from_the_first_guess(monkeypatch, k):
    # Queries outside the cloud and between two clusters: the curve's neighbourhood is a poor guess.
    search_everything(monkeypatch)
    rng = np.random.default_rng(k)
    points = rng.standard_normal((2, 2300, 3)).astype(np.float32)
    points[:, ::2] += 100
    query = np.array([[[50, 50, 50], [-300, 0, 0], [100, 100, 0], [0.1, 0, 0]]] * 2, np.float32)
    check(query, points, k)


def test_search_among_duplicates_fills_the_buffer(monkeypatch):
    search_everything(monkeypatch)
    points = np.random.default_rng(8).integers(0, 2, (1, 1500, 3)).astype(np.float32)
    check(points[:, ::500].copy(), points, 32)


def test_search_finds_lower_indices_at_the_limit_later_on_the_curve(monkeypatch):
    # Points at -1 come first on the curve and fill the buffer; those at +1 are as near and win the ties.
    search_everything(monkeypatch)
    points = np.zeros((1, 300, 3), np.float32)
    points[0, :, 0] = np.where(np.arange(300) < 100, 1, -1)
    check(np.zeros((1, 1, 3), np.float32), points, 32)


def test_search_in_several_launches_of_the_points_themselves(monkeypatch):
    search_everything(monkeypatch)
    monkeypatch.setattr(module, "SEARCH_LAUNCH", 7)
    points = np.random.default_rng(9).standard_normal((2, 20, 3)).astype(np.float32)
    found = torch.tensor(points, device=DEVICE)
    idx, sqdist = knn(found, found, 4)
    want_idx, want_sqdist = brute_force(points, points, 4)
    np.testing.assert_array_equal(idx.cpu().numpy(), want_idx)
    np.testing.assert_array_equal(sqdist.cpu().numpy(), want_sqdist)


def test_large_clouds_are_searched(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "_search", lambda *arguments: asked.append(arguments))
    points = torch.zeros(1, module.SEARCH_POINTS, 3, device=DEVICE)
    knn(torch.zeros(1, -(-module.SEARCH_DISTANCES // module.SEARCH_POINTS), 3, device=DEVICE), points, 1)
    assert len(asked) == 1


def test_no_queries():
    idx, sqdist = knn(torch.zeros(2, 0, 3, device=DEVICE), torch.zeros(2, 4, 3, device=DEVICE), 3)
    assert idx.shape == sqdist.shape == (2, 0, 3)


def test_too_many_neighbours():
    cloud = torch.zeros(1, MAX_K + 1, 3, device=DEVICE)
    with pytest.raises(ValueError, match=f"k <= {MAX_K}, found {MAX_K + 1}"):
        knn(cloud, cloud, MAX_K + 1)


def test_cpu_tensors_outside_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    cloud = torch.zeros(1, 4, 3)
    with pytest.raises(ValueError, match="wants CUDA tensors, found cpu"):
        knn(cloud, cloud, 1)
