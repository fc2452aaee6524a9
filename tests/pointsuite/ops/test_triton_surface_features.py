import numpy as np
import pytest
import torch

pytest.importorskip("triton")
from pointsuite import ops
from pointsuite.ops.triton.surface_features import MAX_K, surface_features

from .test_surface_features import ROUNDINGS, rays, tie

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def dot(a, b):
    return (a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1]) + a[..., 2] * b[..., 2]


def cross(a, b):
    (ax, ay, az), (bx, by, bz) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)


def length(a):
    return np.sqrt(dot(a, a))


def fused(x, y, z):
    return (x.astype(np.float64) * y.astype(np.float64) + z.astype(np.float64)).astype(x.dtype)


def fused_dot(a, b):
    return fused(a[:, 2], b[2], fused(a[:, 1], b[1], a[:, 0] * b[0]))


def unit(a):
    one = a.dtype.type(1)
    return a * (one / (length(a) + a.dtype.type(1e-7)))[..., None]


def brute_force(centre, normal, points, normals, idx, shift, origin, propagation):
    """One centre. The formulas in their order of operations, with NumPy."""
    x = points[idx] - centre
    along = fused_dot(x, normal)[:, None]
    x = fused(-along, normal, x) if propagation else x - along * normal
    far = np.sqrt(fused_dot(x[:, ::-1], x.T[::-1]) if propagation else fused_dot(x, x.T))
    x = x / np.where(far > 0, far, 1)[:, None]
    reference = far.argmax()
    a, b = x.T, x[reference]
    turn = [fused(a[i - 2], b[i - 1], -(a[i - 1] * b[i - 2])) for i in range(3)]
    side = np.sign(dot(np.stack(turn, -1), normal))
    side[[0, reference]] = 1
    axes = [0, 2, 1] if propagation else [0, 1, 2]
    key = side * dot(x[:, axes], x[reference, axes]) - (1 - side)
    idx = idx[np.argsort(-key, kind="stable")]
    x, normal_x = points[idx], normals[idx]
    b, normal_b = np.roll(x, shift, 0), np.roll(normal_x, shift, 0)
    a, normal_a = np.roll(x, -shift, 0), np.roll(normal_x, -shift, 0)
    from_b, to_a = unit(x - b), unit(a - x)
    x, b, a = x - origin, b - origin, a - origin
    ux, ub, ua = unit(x), unit(b), unit(a)
    features = [
        length(x),
        dot(ux, normal),
        -dot(ux, normal_x),
        dot(ux, ub),
        dot(ub, normal),
        -dot(ub, normal_b),
        -dot(ub, from_b),
        -dot(from_b, normal_x),
        dot(from_b, normal_b),
        dot(ua, ux),
        dot(ua, to_a),
        dot(to_a, normal_a),
        dot(ux, normal_a),
        dot(cross(ua, ux), cross(ub, ux)),
    ]
    return np.stack(features, -1), idx


def make(batch, size, number, k, dtype, seed=0, grid=False):
    """Random clouds, or points on an integer grid with axes as normals: ties and duplicates everywhere."""
    rng = np.random.default_rng(seed)
    points, normals = rng.standard_normal((2, batch, number, 3))
    if grid:
        points, normals = rng.integers(0, 3, points.shape), np.eye(3)[rng.integers(0, 3, (batch, number))]
    normals = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
    points, normals = points.astype(dtype), normals.astype(dtype)
    idx = np.stack([[rng.permutation(number)[:k] for _ in range(size)] for _ in range(batch)])
    idx[:, :, 0] = np.arange(size)  # the centre itself
    return points[:, :size].copy(), normals[:, :size].copy(), points, normals, idx


def check(centres, centre_normals, points, normals, idx, shift=1, origins=None, propagation=False):
    arrays = [torch.tensor(a, device=DEVICE) for a in (centres, centre_normals, points, normals, idx)]
    features, ordered = surface_features(
        *arrays, shift, None if origins is None else torch.tensor(origins, device=DEVICE), propagation
    )
    assert features.dtype == arrays[2].dtype and ordered.dtype == torch.int64
    origins = centres if origins is None else origins
    for b, s in np.ndindex(idx.shape[:2]):
        want, order = brute_force(
            centres[b, s],
            centre_normals[b, s],
            points[b],
            normals[b],
            idx[b, s],
            shift,
            origins[b, s],
            propagation,
        )
        np.testing.assert_array_equal(ordered[b, s].cpu().numpy(), order)
        np.testing.assert_array_equal(features[b, s].cpu().numpy(), want)  # to the bit


@pytest.mark.parametrize("propagation", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize(
    "batch,size,number,k,shift",
    [
        (1, 1, 1, 1, 2),
        (2, 9, 20, 8, 1),
        (1, 5, 30, 6, 2),
        (2, 2, 40, 33, 1),
        (1, 1, 128, 128, 2),
        (1, 3, 9, 2, 5),
    ],
)
def test_equals_brute_force(batch, size, number, k, shift, grid, dtype, propagation):
    check(*make(batch, size, number, k, dtype, seed=k, grid=grid), shift, propagation=propagation)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_orders_ties_as_the_other_forms(rounding):
    for arrays in (tie(3, 4), tie(4, 3), rays(20, 32)):
        expected = ops.surface_features(*arrays, rounding=rounding)[1]
        arrays = [a.to(DEVICE).contiguous() for a in arrays]
        _, ordered = surface_features(*arrays, 1, propagation=rounding == "propagation")
        assert torch.equal(ordered.cpu(), expected)


def test_order_by_angle():
    # Seen from above, neighbours on the four axes: the order is clockwise, from the longest (slot 3).
    points = torch.tensor([[[0.0, 0, 0], [0, 1, 0], [-1, 0, 5], [2, 0, 0], [0, -1, 0]]], device=DEVICE)
    normals = torch.tensor([0.0, 0, 1], device=DEVICE).expand(1, 5, 3).contiguous()
    idx = torch.tensor([[[0, 1, 2, 3, 4]]], device=DEVICE)
    features, ordered = surface_features(points[:, :1], normals[:, :1], points, normals, idx, 1)
    # The centre has key 0, like the neighbour a quarter turn after the reference: both keep their order.
    assert ordered.tolist() == [[[3, 0, 4, 2, 1]]]
    assert features[0, 0, :, 0].tolist() == pytest.approx([2, 0, 1, 26**0.5, 1])
    assert features[0, 0, 3, 1].item() == pytest.approx(5 / 26**0.5)


def test_origins_move_the_features_only():
    centres, centre_normals, points, normals, idx = make(2, 3, 20, 7, "float32")
    check(centres, centre_normals, points, normals, idx, 1, np.zeros_like(centres))


def test_all_neighbours_coincide():
    points = np.ones((1, 4, 3), np.float32)
    normals = np.zeros_like(points)
    normals[..., 2] = 1
    check(points[:, :2], normals[:, :2], points, normals, np.arange(8).reshape(1, 2, 4) % 4)


def test_no_centres():
    cloud = torch.zeros(1, 4, 3, device=DEVICE)
    none = torch.zeros(1, 0, 3, device=DEVICE)
    features, ordered = surface_features(
        none, none, cloud, cloud, torch.zeros(1, 0, 2, dtype=torch.int64, device=DEVICE), 1
    )
    assert features.shape == (1, 0, 2, 14) and ordered.shape == (1, 0, 2)


def test_too_many_neighbours():
    cloud = torch.zeros(1, 1, 3, device=DEVICE)
    idx = torch.zeros(1, 1, MAX_K + 1, dtype=torch.int64, device=DEVICE)
    with pytest.raises(ValueError, match=f"at most {MAX_K} neighbours, found {MAX_K + 1}"):
        surface_features(cloud, cloud, cloud, cloud, idx, 1)
