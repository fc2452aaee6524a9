import numpy as np
import pytest
import torch

pytest.importorskip("triton")
from pointsuite.ops.triton import farthest_point_sample as module
from pointsuite.ops.triton.farthest_point_sample import farthest_point_sample

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def brute_force(points, num_samples, start, counts):
    idx = np.empty((len(points), num_samples), np.int64)
    for b, count in enumerate(counts):
        cloud, chosen = points[b, :count], start[b]
        nearest = np.full(count, np.inf, points.dtype)
        for i in range(num_samples):
            idx[b, i] = chosen
            x, y, z = (cloud - cloud[chosen]).T
            nearest = np.minimum(nearest, (x * x + y * y) + z * z)
            chosen = nearest.argmax()
    return idx


@pytest.fixture(params=["resident", "streamed", "boxed"])
def path(request, monkeypatch):
    """All kernels, the streamed one in tiles of 64, the boxed one with boxes of 16."""
    if request.param == "boxed":
        monkeypatch.setattr(module, "BOXED_POINTS", 0)
        monkeypatch.setattr(module, "BOXED_SAMPLES", 0)
        constants = {"LEAF": 16, "LEAVES": 16, "num_warps": 1, "enable_fp_fusion": False}
        monkeypatch.setattr(module, "boxed_constants", lambda size: constants)
    if request.param != "resident":
        monkeypatch.setattr(module, "RESIDENT_BYTES", 0)
        monkeypatch.setitem(module.STREAMED_CONSTANTS, "BLOCK_N", 64)
        monkeypatch.setitem(module.STREAMED_CONSTANTS, "num_warps", 2)


def check(points, num_samples, start, counts=None):
    want = brute_force(points, num_samples, start, counts or [points.shape[1]] * len(points))
    counts = None if counts is None else torch.tensor(counts, device=DEVICE)
    start = torch.tensor(start, device=DEVICE)
    idx = farthest_point_sample(torch.tensor(points, device=DEVICE), num_samples, start, counts)
    assert idx.dtype == torch.int64
    np.testing.assert_array_equal(idx.cpu().numpy(), want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch,number,samples", [(1, 1, 1), (2, 130, 17), (3, 64, 64), (1, 65, 2)])
def test_equals_brute_force(path, batch, number, samples, dtype):
    rng = np.random.default_rng(number)
    points = rng.standard_normal((batch, number, 3)).astype(dtype)
    check(points, samples, [number // 2] * batch)


def test_ties_go_to_the_lowest_index(path):
    points = np.random.default_rng(0).integers(0, 3, (2, 150, 3)).astype(np.float32)
    check(points, 40, [3, 149])  # 27 distinct places: index 0 repeats at the end


def test_hand_checked(path):
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [4, 0, 0], [2, 0, 0]]], device=DEVICE)
    idx = farthest_point_sample(points, 4, torch.zeros(1, dtype=torch.int64, device=DEVICE))
    assert idx.tolist() == [[0, 2, 3, 1]]


def test_ragged_counts_ignore_padding(path):
    points = np.random.default_rng(1).standard_normal((3, 140, 3)).astype(np.float32)
    counts = [140, 9, 65]
    for cloud, count in zip(points, counts, strict=True):
        cloud[count:] = 100
    check(points, 9, [0, 8, 64], counts)


def test_large_clouds_are_streamed(monkeypatch):
    monkeypatch.setattr(module, "resident_constants", None)  # not to be asked for
    points = np.random.default_rng(2).standard_normal((1, 8200, 3)).astype(np.float32)
    check(points, 3, [5])


def test_which_kernel_serves_large_clouds(monkeypatch):
    """Many samples of many points are taken from boxes, and the boxes hold all points."""
    asked = []
    monkeypatch.setattr(module, "_sample_boxes", lambda *arguments: asked.append(arguments))
    points = torch.zeros(1, module.BOXED_POINTS, 3, device=DEVICE)
    farthest_point_sample(points, module.BOXED_SAMPLES, torch.zeros(1, dtype=torch.int64, device=DEVICE))
    assert len(asked) == 1
    for size in (module.BOXED_POINTS, 10**6, module.BOXED_LIMIT):
        constants = module.boxed_constants(size)
        assert size <= constants["LEAF"] * constants["LEAVES"] < 8 * size
        assert max(constants["LEAF"], constants["LEAVES"]) <= 4096
