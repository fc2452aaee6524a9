import numpy as np
import pytest
import torch

pytest.importorskip("triton")
from pointsuite.ops.triton.knn import MAX_K, knn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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
def test_equals_brute_force(batch, size, number, k, dtype):
    rng = np.random.default_rng(number)
    query = rng.standard_normal((batch, size, 3)).astype(dtype)
    points = rng.standard_normal((batch, number, 3)).astype(dtype)
    check(query, points, k)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("side", [1, 2, 5])
def test_ties_go_to_the_lowest_index(side, dtype):
    # side 1: all 400 points coincide, more than the buffer holds.
    rng = np.random.default_rng(side)
    points = rng.integers(0, side, (1, 400, 3)).astype(dtype)
    check(points[:, ::200].copy(), points, 20)


def test_hand_checked():
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


def test_ragged_counts_ignore_padding():
    rng = np.random.default_rng(5)
    points = rng.standard_normal((3, 150, 3)).astype(np.float32)
    query = points[:, :4].copy()
    counts = [150, 12, 129]
    for cloud, count in zip(points, counts, strict=True):
        cloud[count:] = query[0, 0]  # padding is nearer than all else
    check(query, points, 12, counts)


def test_spare_slots_are_infinitely_far():
    rng = np.random.default_rng(6)
    points = rng.standard_normal((2, 9, 3)).astype(np.float32)
    check(points[:, :3].copy(), points, 5, [9, 2])


def test_float64_tells_apart_what_float32_cannot():
    points = np.zeros((1, 3, 3))
    points[0, :, 0] = [1 + 2e-12, 1 + 1e-12, 1]
    query = torch.zeros(1, 1, 3, dtype=torch.float64, device=DEVICE)
    idx, _ = knn(query, torch.tensor(points, device=DEVICE), 3)
    assert idx.tolist() == [[[2, 1, 0]]]


def test_extreme_scales():
    rng = np.random.default_rng(7)
    points = rng.standard_normal((1, 200, 3)) * 10.0 ** rng.uniform(-18, 15, (1, 200, 1))
    check(np.zeros((1, 1, 3), np.float32), points.astype(np.float32), 100)


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
