"""Every operator against brute force on clouds that hypothesis chooses: few points, many ties and copies."""

import importlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pointsuite.ops import (
    ball_query,
    farthest_point_sample,
    gather_points,
    graph,
    inverse_distance_weights,
    knn,
    offset_attention,
    pool_neighbours,
    surface_features,
    three_interpolate,
    weighted_normal,
)

from . import reference
from .test_knn import module as knn_module

settings.register_profile(
    "operators",
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
fast = settings(settings.get_profile("operators"))

seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([np.float32, np.float64])


@st.composite
def clouds(draw, most=40, fewest=1):
    """(B, N, 3): a small lattice (ties, copies), a line, or general position; any scale and place."""
    rng = np.random.default_rng(draw(seeds))
    shape = (draw(st.integers(1, 3)), draw(st.integers(fewest, most)), 3)
    kind = draw(st.sampled_from(["lattice", "line", "general"]))
    if kind == "lattice":
        points = rng.integers(0, draw(st.integers(1, 4)), shape).astype(float)
    elif kind == "line":
        points = rng.integers(0, 9, shape[:2])[..., None] * np.array([1.0, 0.0, -2.0])
    else:
        points = rng.standard_normal(shape)
    points = points * 2.0 ** draw(st.integers(-20, 20)) + draw(st.sampled_from([0.0, 0.0, 1.0, -1e3]))
    return torch.from_numpy(points.astype(draw(dtypes)))


@st.composite
def searches(draw):
    """Points, queries (some of them points), counts of real points, and k."""
    points = draw(clouds())
    rng = np.random.default_rng(draw(seeds))
    batch, size = points.shape[:2]
    query = points[:, torch.from_numpy(rng.integers(0, size, draw(st.integers(1, 20))))]
    if draw(st.booleans()):
        query = query + torch.from_numpy(rng.integers(0, 2, query.shape)).to(query) / 2
    valid = torch.from_numpy(rng.integers(1, size + 1, batch)) if draw(st.booleans()) else None
    return query, points, valid, draw(st.integers(1, size if valid is None else int(valid.min())))


@pytest.fixture(params=["torch", "numba", "tree"])
def backend(request, monkeypatch):
    """The portable backend, and the numba backend with its scan and with its tree at these small sizes."""
    sampling = importlib.import_module("pointsuite.ops.farthest_point_sample")
    if request.param == "tree":
        for module, name in (
            (knn_module, "TREE_POINTS"),
            (knn_module, "TREE_QUERIES"),
            (sampling, "TREE_POINTS"),
            (sampling, "TREE_SAMPLES"),
        ):
            monkeypatch.setattr(module, name, 0)
    return "torch" if request.param == "torch" else "numba"


def real_points(points, valid, b):
    return points[b, : len(points[b]) if valid is None else valid[b]].numpy()


@fast
@given(search=searches())
def test_knn(backend, search):
    query, points, valid, k = search
    idx, sqdist = knn(query, points, k, valid=valid, backend=backend)
    for b in range(len(points)):
        wanted, distance = reference.knn(query[b].numpy(), real_points(points, valid, b), k)
        assert np.array_equal(idx[b], wanted) and np.array_equal(sqdist[b], distance)


@fast
@given(search=searches(), radius=st.floats(1e-3, 1e3), more=st.integers(0, 50))
def test_ball_query(backend, search, radius, more):
    query, points, valid, k = search
    idx, count = ball_query(query, points, radius, k + more, valid=valid, backend=backend)
    for b in range(len(points)):
        cloud = real_points(points, valid, b)
        order, distance = reference.knn(query[b].numpy(), cloud, len(cloud))
        for s in range(query.shape[1]):
            wanted = order[s][distance[s] <= distance.dtype.type(radius * radius)][: k + more]
            assert count[b, s] == len(wanted)
            filler = wanted[0] if len(wanted) else -1
            assert idx[b, s].tolist() == [*wanted, *[filler] * (k + more - len(wanted))]


@fast
@given(search=searches(), seed=seeds)
def test_farthest_point_sample(backend, search, seed):
    _, points, valid, samples = search
    rng = np.random.default_rng(seed)
    sizes = [len(real_points(points, valid, b)) for b in range(len(points))]
    start = torch.from_numpy(rng.integers(0, sizes))
    idx = farthest_point_sample(points, samples, start=start, valid=valid, backend=backend)
    for b in range(len(points)):
        cloud = real_points(points, valid, b)
        assert np.array_equal(idx[b], reference.farthest_point_sample(cloud, samples, int(start[b])))


@fast
@given(seed=seeds, count=st.integers(2, 20), shift=st.integers(1, 3), dtype=dtypes)
def test_surface_features(seed, count, shift, dtype):
    rng = np.random.default_rng(seed)
    points = torch.from_numpy(rng.standard_normal((2, count, 3)).astype(dtype))
    normals = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((2, count, 3))), dim=-1)
    normals = normals.to(points)
    idx, _ = knn(points, points, min(count, 8))
    for backend in ("torch", "numba"):
        found, order = surface_features(points, normals, points, normals, idx, shift=shift, backend=backend)
        for b, s in ((0, 0), (1, count - 1)):
            arrays = (points[b, s], normals[b, s], points[b], normals[b], idx[b, s])
            wanted, wanted_order = reference.surface_features(*(a.numpy() for a in arrays), shift)
            assert np.array_equal(order[b, s], wanted_order)
            assert np.allclose(found[b, s], wanted, atol=1e-4 if dtype == np.float32 else 1e-9)


@fast
@given(search=searches(), channels=st.integers(1, 5), seed=seeds)
def test_pool_neighbours(search, channels, seed):
    query, points, _, k = search
    rng = np.random.default_rng(seed)
    idx, _ = knn(query, points, k)
    x, weight = rng.standard_normal((*idx.shape, 4)), rng.standard_normal((channels, 4))
    values = rng.standard_normal((*points.shape[:2], channels))
    hidden = x @ weight.T + np.stack([v[i] for v, i in zip(values, idx.numpy(), strict=True)])
    for fused in (False, True):
        found = pool_neighbours(*map(torch.from_numpy, (x, weight, values)), idx, fused=fused)
        for tensor, wanted in zip(
            found, (hidden.max(2), hidden.mean((0, 1, 2)), hidden.var((0, 1, 2))), strict=True
        ):
            assert np.allclose(tensor, wanted, atol=1e-9)


@fast
@given(sizes=st.tuples(*[st.integers(1, 4)] * 3), axis=st.sampled_from([-2, -3]), seed=seeds)
def test_offset_attention(sizes, axis, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*sizes, 3))
    query, key, value = (rng.standard_normal((*sizes, n)) for n in (2, 2, 3))
    attention = np.exp(np.einsum("bsid,bsjd->bsij", query, key))
    attention /= attention.sum(-1, keepdims=True)
    attention /= attention.sum(axis, keepdims=True) + 1e-9
    wanted = x - np.einsum("bsij,bsic->bsjc", attention, value)
    projected = torch.from_numpy(np.concatenate([query, key, value], -1))
    for fused in (False, True):
        found = offset_attention(torch.from_numpy(x), projected, axis, fused=fused)
        assert np.allclose(found, wanted, atol=1e-9)


@fast
@given(search=searches(), channels=st.integers(1, 5), seed=seeds)
def test_gather_and_interpolate(search, channels, seed):
    query, points, _, k = search
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((*points.shape[:2], channels)).astype(points.numpy().dtype)
    idx, sqdist = knn(query, points, k)
    picked = gather_points(torch.from_numpy(values), idx).numpy()
    for b in range(len(points)):
        assert np.array_equal(picked[b], values[b][idx[b].numpy()])
    weight = inverse_distance_weights(sqdist)
    assert torch.allclose(weight.sum(-1), torch.ones((), dtype=weight.dtype))
    wanted = (picked * weight.numpy()[..., None]).sum(2)
    found = three_interpolate(torch.from_numpy(values), idx, weight).numpy()
    assert np.allclose(found, wanted, atol=1e-5)


@fast
@given(seed=seeds, count=st.integers(4, 30))
def test_weighted_normal_turns_with_the_points(seed, count):
    rng = np.random.default_rng(seed)
    offsets = torch.from_numpy(rng.standard_normal((count, 3)) * [3.0, 2.0, 0.3])
    turn = torch.linalg.qr(torch.from_numpy(rng.standard_normal((3, 3)))).Q
    normal = weighted_normal(offsets).numpy()
    distance = offsets.norm(dim=-1).numpy()
    weight = (distance.max() - distance) / (distance.max() - distance).sum()
    scatter = sum(w * np.outer(x, x) for w, x in zip(weight, offsets.numpy(), strict=True))
    assert normal @ scatter @ normal == pytest.approx(np.linalg.eigvalsh(scatter)[0], abs=1e-9)
    assert np.allclose(weighted_normal(offsets @ turn.T), turn.numpy() @ normal, atol=1e-6)


@fast
@given(search=searches(), k=st.integers(1, 12))
def test_graph_equals_the_batched_operators(search, k):
    query, points, valid, _ = search
    sizes = [len(real_points(points, valid, b)) for b in range(len(points))]
    x = torch.cat([points[b, :size] for b, size in enumerate(sizes)])
    of_x = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    of_query = torch.arange(len(sizes)).repeat_interleave(query.shape[1])
    found = graph.knn(x, query.flatten(0, 1), k, of_x, of_query)
    first, wanted = 0, []
    for b, size in enumerate(sizes):
        order, _ = reference.knn(query[b].numpy(), points[b, :size].numpy(), k)
        rows = np.repeat(np.arange(len(order)) + b * len(order), order.shape[1])
        wanted.append(np.stack([rows, order.reshape(-1) + first]))
        first += size
    assert np.array_equal(found, np.concatenate(wanted, axis=1))
