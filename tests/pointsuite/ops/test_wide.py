import pytest
import torch

from pointsuite.ops import _wide
from pointsuite.ops._wide import knn_wide

BACKENDS = ("numba", "torch")


def clouds(kind, dims, batch=2, queries=30, size=150):
    """Clouds that are hard on a product in float32."""
    generator = torch.Generator().manual_seed(dims)
    query = torch.randn(batch, queries, dims, generator=generator)
    points = torch.randn(batch, size, dims, generator=generator)
    if kind == "ties":
        return query.round(), points.round()
    if kind == "far":
        return 1000 + 1e-3 * query, 1000 + 1e-3 * points
    if kind == "outlier":
        points[:, 3] = 1e6
    if kind == "copies":
        points[:, 1:] = points[:, :1]
    if kind == "sparse":
        return query.relu() * (query > 1), points.relu() * (points > 1)
    if kind in ("tiny", "huge"):
        scale = 1e-100 if kind == "tiny" else 1e100
        return query.double() * scale, points.double() * scale
    return query, points


def brute_force(query, points, k, valid=None):
    sqdist = (query.double()[:, :, None] - points.double()[:, None]).square().sum(-1)
    if valid is not None:
        sqdist = sqdist.masked_fill(torch.arange(points.shape[1]) >= valid[:, None, None], torch.inf)
    sqdist, idx = sqdist.sort(dim=-1, stable=True)
    return idx[..., :k], sqdist[..., :k]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dims", [1, 4, 64])
@pytest.mark.parametrize("kind", ["plain", "ties", "far", "outlier", "copies", "sparse", "tiny", "huge"])
def test_neighbours_are_those_of_brute_force_in_float64(kind, dims, backend):
    query, points = clouds(kind, dims)
    for k in (1, 20, 150):
        idx, sqdist = knn_wide(query, points, k, None, backend)
        wanted, distance = brute_force(query, points, k)
        assert torch.equal(idx, wanted)
        torch.testing.assert_close(sqdist, distance, rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_is_far(backend):
    query, points = clouds("plain", 8)
    valid = torch.tensor([150, 3])
    idx, sqdist = knn_wide(query, points, 5, valid, backend)
    wanted, distance = brute_force(query, points, 5, valid)
    assert torch.equal(sqdist.isinf(), distance.isinf()) and bool(sqdist[1, :, 3:].isinf().all())
    assert torch.equal(idx[~sqdist.isinf()], wanted[~sqdist.isinf()])


@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_change_nothing(backend, monkeypatch):
    query, points = clouds("plain", 16)
    whole = knn_wide(query, points, 7, None, backend)
    monkeypatch.setattr(_wide, "PRODUCTS", 1)
    monkeypatch.setattr(_wide, "MEASURED", 1)
    for found, wanted in zip(knn_wide(query, points, 7, None, backend), whole, strict=True):
        assert torch.equal(found, wanted)


def test_memory_is_that_of_a_block(monkeypatch):
    """No product has more numbers than a block, whatever the number of queries."""
    monkeypatch.setattr(_wide, "PRODUCTS", 10_000)
    sizes, choose = [], _wide._choose_torch
    monkeypatch.setattr(
        _wide, "_choose_torch", lambda q, p, d, *rest: sizes.append(d.numel()) or choose(q, p, d, *rest)
    )
    query, points = clouds("plain", 4, queries=500)
    knn_wide(query, points, 3, None, "torch")
    assert len(sizes) > 10 and max(sizes) <= 10_000


@pytest.mark.parametrize("backend", BACKENDS)
def test_fewer_bits_of_products_change_nothing(backend):
    query, points = clouds("far", 32)
    wanted = brute_force(query, points, 9)[0]
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(knn_wide(query, points, 9, None, backend)[0], wanted)
    finally:
        torch.set_float32_matmul_precision("highest")
