import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from pointsuite.ops import knn, surface_features, weighted_normal
from pointsuite.transforms import random_rotation

from . import reference
from .test_knn import cloud, grid

BACKENDS = ["torch", "numba"]
ROUNDINGS = ["abstraction", "propagation"]


def surface(batch, size, k, dtype=torch.float64, seed=0):
    points = cloud(batch, size, dtype=dtype, seed=seed)
    normals = normalize(cloud(batch, size, dtype=dtype, seed=seed + 1), dim=-1)
    return points, normals, knn(points, points, k)[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("k", "shift"), [(1, 1), (2, 1), (7, 1), (8, 2), (33, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_equals_the_definition(backend, k, shift, dtype, tolerance):
    points, normals, idx = surface(2, 40, k, dtype)
    features, ordered = surface_features(points, normals, points, normals, idx, shift=shift, backend=backend)
    assert features.shape == (2, 40, k, 14) and features.dtype == dtype
    swapped = 0  # float32 cannot tell angles apart near the reference's line
    for b in range(2):
        p, n = points[b].double().numpy(), normals[b].double().numpy()
        for s in range(40):
            wanted, order = reference.surface_features(p[s], n[s], p, n, idx[b, s].numpy(), shift)
            if np.array_equal(ordered[b, s].numpy(), order):
                np.testing.assert_allclose(features[b, s].numpy(), wanted, atol=tolerance)
            else:
                swapped += 1
    assert swapped <= (2 if dtype == torch.float32 else 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend):
    """A centre on a plane, its neighbours on a circle: the order is the angle, beginning at the farthest."""
    angle = torch.tensor([0.0, 200, 100, 300]) * torch.pi / 180
    ring = torch.stack([angle.cos(), angle.sin(), 0 * angle], -1) * torch.tensor([2.0, 1, 1, 1])[:, None]
    points = torch.cat([torch.zeros(1, 3), ring])[None]
    normals = torch.tensor([0.0, 0, 1]).expand(1, 5, 3)
    idx = torch.arange(5)[None, None]
    features, ordered = surface_features(points[:, :1], normals[:, :1], points, normals, idx, backend=backend)
    ring_only = [i for i in ordered[0, 0].tolist() if i]
    turn = ring_only.index(1)
    assert ring_only[turn:] + ring_only[:turn] in ([1, 3, 2, 4], [1, 2, 3, 4][::-1], [1, 4, 2, 3])
    assert ordered[0, 0, 0] == 1  # the farthest comes first
    torch.testing.assert_close(features[0, 0, 0, 0], torch.tensor(2.0))
    # All normals are perpendicular to the plane: every cosine with a normal is zero.
    assert features[0, 0][:, [1, 2, 4, 5, 7, 8, 11, 12]].abs().max() < 1e-6


def tie(x, y):
    """A centre, a far neighbour, and two at one angle from it: 11627 * (x, -y) and (x, -y)."""
    plane = [[0, 0], [2**17, 0], [11627 * x, -11627 * y], [x, -y]]
    points = torch.nn.functional.pad(torch.tensor(plane, dtype=torch.float32), (0, 1))[None]
    normals = torch.tensor([0.0, 0, 1]).expand_as(points)
    return points[:, :1], normals[:, :1], points, normals, torch.arange(4)[None, None]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("x", "y", "rounding", "order"),
    [
        (3, 4, "abstraction", [1, 2, 3, 0]),
        (3, 4, "propagation", [1, 3, 2, 0]),
        (4, 3, "abstraction", [1, 3, 2, 0]),
        (4, 3, "propagation", [1, 2, 3, 0]),
    ],
)
def test_rounding_orders_a_tie(backend, x, y, rounding, order):
    """The longer neighbour, (34881, -46508) of length 58135, keeps its place if its length comes out exact.

    One square rounds before the sum and the sum after: 34881^2 to 1216684160 (1 less) and the sum to
    58134.99985^2, whose root is the float 58135; 46508^2 to 2162994176 (112 more) and the sum to
    58135.00206^2, whose root rounds away to 58135.00391. Its cosine is then below that of (3, -4).
    """
    assert surface_features(*tie(x, y), rounding=rounding, backend=backend)[1].flatten().tolist() == order


def rays(size, k):
    """Centres whose neighbours lie on a few rays, so that angles tie in each of their planes."""
    directions = cloud(1, 8)
    points = torch.cat([directions * factor for factor in (1, 3, 5, 7, 11)], 1)
    centres, centre_normals = torch.zeros(1, size, 3), normalize(cloud(1, size, seed=1), dim=-1)
    normals = normalize(cloud(1, 40, seed=2), dim=-1)
    idx = torch.rand(1, size, 40, generator=torch.Generator().manual_seed(3)).argsort(-1)[..., :k]
    return centres, centre_normals, points, normals, idx


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_forms_order_ties_alike(rounding):
    arrays = rays(200, 32)
    orders = [surface_features(*arrays, rounding=rounding, backend=backend)[1] for backend in BACKENDS]
    assert torch.equal(*orders)


def test_rounding_matters_for_ties_only():
    arrays = rays(200, 32)
    orders = [surface_features(*arrays, rounding=rounding)[1][0] for rounding in ROUNDINGS]
    assert not torch.equal(*orders)
    # Point i lies on ray i % 8. Those on the reference's ray come first or last, the others by their rays.
    for one, other in zip(*(order % 8 for order in orders), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[one != one[0]], other[other != other[0]])
    points, normals, idx = surface(2, 40, 8, torch.float32)
    arrays = (points, normals, points, normals, idx)
    plain, other = (surface_features(*arrays, rounding=rounding) for rounding in ROUNDINGS)
    assert torch.equal(plain[1], other[1]) and torch.equal(plain[0], other[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_rotation_and_translation(backend, seed):
    points, normals, idx = surface(1, 60, 16, seed=seed)
    turn = torch.from_numpy(random_rotation(np.random.default_rng(seed)))
    moved, turned = points @ turn.T + torch.tensor([3.0, -2, 7]), normals @ turn.T
    before = surface_features(points, normals, points, normals, idx, backend=backend)
    after = surface_features(moved, turned, moved, turned, idx, backend=backend)
    assert torch.equal(before[1], after[1])
    torch.testing.assert_close(before[0], after[0], atol=1e-12, rtol=0)


def test_reflection_reverses_the_order():
    """Mirrored, the angles run the other way: x meets the same two neighbours with their roles exchanged."""
    points, normals, idx = surface(1, 60, 9)
    mirror = torch.tensor([1.0, 1, -1], dtype=torch.float64)
    before, order = surface_features(points, normals, points, normals, idx)
    after, mirrored = surface_features(
        points * mirror, normals * mirror, points * mirror, normals * mirror, idx
    )
    assert torch.equal(order[..., 0], mirrored[..., 0])
    # The centre is pinned to one side of the plane; rows without it around them are plainly reversed.
    for s in range(60):
        a = [j for j in order[0, s].tolist() if j != s]
        b = [j for j in mirrored[0, s].tolist() if j != s]
        assert a[1:] == b[:0:-1]
    torch.testing.assert_close(before[..., 0].sum(-1), after[..., 0].sum(-1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_degenerate_clouds_are_finite_and_deterministic(backend):
    plane = grid(1, 50) * torch.tensor([1.0, 1, 0])
    line = grid(1, 50) * torch.tensor([1.0, 0, 0])
    for points in (plane, line, torch.ones(1, 50, 3), grid(1, 50)):
        normals = torch.tensor([0.0, 0, 1]).expand(1, 50, 3)
        idx, _ = knn(points, points, 8)
        first = surface_features(points, normals, points, normals, idx, backend=backend)
        again = surface_features(points, normals, points, normals, idx, backend=backend)
        assert first[0].isfinite().all()
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_origins_and_reference_sign():
    points, normals, idx = surface(1, 30, 8)
    arrays = (points, normals, points, normals, idx)
    plain, order = surface_features(*arrays)
    centred, same_order = surface_features(*arrays, origins=points)
    assert torch.equal(plain, centred) and torch.equal(order, same_order)
    moved, same_order = surface_features(*arrays, origins=torch.zeros_like(points))
    assert torch.equal(order, same_order)
    torch.testing.assert_close(moved[..., 0], points[0][order].norm(dim=-1))
    rounded, turned = surface_features(*arrays, reference_sign="rounded")
    # The published rule only turns the slots: the set of neighbours and their distances stay.
    assert torch.equal(turned.sort(-1).values, order.sort(-1).values)
    torch.testing.assert_close(rounded[..., 0].sort(-1).values, plain[..., 0].sort(-1).values)


def test_compiles_and_has_no_gradient():
    points, normals, idx = surface(2, 20, 5, torch.float32)
    points.requires_grad_()
    found = surface_features(points, normals, points, normals, idx)
    assert not found[0].requires_grad
    compiled = torch.compile(surface_features, fullgraph=True, backend="eager")
    assert torch.equal(compiled(points, normals, points, normals, idx)[0], found[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"idx": torch.full((2, 3, 4), 9)}, ValueError, r"idx must lie in \[0, 9\), found 9 to 9"),
        ({"idx": torch.zeros(2, 3, 4)}, TypeError, "idx must be int64"),
        (
            {"idx": torch.zeros(2, 4, 4, dtype=torch.int64)},
            ValueError,
            r"idx must have shape \(B, 3, K >= 1\)",
        ),
        (
            {"normals": torch.zeros(2, 8, 3)},
            ValueError,
            r"normals must have the shape of points, \(2, 9, 3\)",
        ),
        ({"normals": torch.full((2, 9, 3), torch.nan)}, ValueError, "normals must be finite"),
        ({"centre_normals": torch.zeros(2, 3, 3).double()}, TypeError, "one dtype"),
        ({"origins": torch.zeros(2, 1, 3)}, ValueError, "origins must have the shape of centres"),
        ({"reference_sign": "random"}, ValueError, "reference_sign must be"),
        ({"rounding": "up"}, ValueError, r"rounding must be one of \('abstraction', .*\), found 'up'"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {
        "centres": torch.zeros(2, 3, 3),
        "centre_normals": torch.zeros(2, 3, 3),
        "points": torch.zeros(2, 9, 3),
        "normals": torch.zeros(2, 9, 3),
        "idx": torch.zeros(2, 3, 4, dtype=torch.int64),
    }
    with pytest.raises(error, match=message):
        surface_features(**(arguments | change))


def test_weighted_normal_of_a_plane():
    flat = cloud(5, 40) * torch.tensor([1.0, 1, 0.001])
    normal = weighted_normal(flat)
    assert normal.shape == (5, 3)
    assert (normal[:, 2].abs() > 0.999).all()
    assert weighted_normal(torch.zeros(1, 4, 3)).isfinite().all()


def test_weighted_normal_turns_with_the_points():
    points = cloud(1, 50, dtype=torch.float64)
    for seed in range(8):
        turn = torch.from_numpy(random_rotation(np.random.default_rng(seed)))
        torch.testing.assert_close(weighted_normal(points @ turn.T), weighted_normal(points) @ turn.T)


def test_weighted_normal_bad_input():
    with pytest.raises(ValueError, match="sign must be"):
        weighted_normal(torch.zeros(4, 3), sign="up")
    with pytest.raises(ValueError, match="offsets must have shape"):
        weighted_normal(torch.zeros(3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_neighbours_close_together_and_far_from_the_centre(backend):
    """1e-6 apart and 1e3 away: float32 rounds their offsets from the centre, and not their difference."""
    points = torch.cat([torch.tensor([[[1e3, 0, 0]]]), 1e-6 * cloud(1, 8, dtype=torch.float32)], 1)
    normals = normalize(cloud(1, 9, dtype=torch.float32, seed=1), dim=-1)
    idx = torch.arange(9)[None, None]
    arrays = (points[:, :1], normals[:, :1], points, normals, idx)
    features, ordered = surface_features(*arrays, backend=backend)
    p, n = points[0, ordered[0, 0]].double(), normals[0, ordered[0, 0]].double()
    edge = p - p.roll(1, 0)
    edge = edge / (edge.norm(dim=-1, keepdim=True) + 1e-7)
    wanted = torch.stack([-(edge * n).sum(-1), (edge * n.roll(1, 0)).sum(-1)], -1)
    torch.testing.assert_close(features[0, 0, :, 7:9].double(), wanted, rtol=0, atol=1e-6)
