import pytest
import torch

from pointsuite.ops import estimate_normals, knn, weighted_normal


def ball(count=300, dtype=torch.float64, seed=0):
    points = torch.randn(2, count, 3, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return points / points.norm(dim=-1, keepdim=True)


def rotation(seed):
    matrix, _ = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )
    return matrix * matrix.det()


def test_by_hand():
    """A tent of two planes, whose normals away from the centroid are known."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, 21), torch.linspace(-1, 1, 21), indexing="ij")
    points = torch.stack([x, y, 1 - x.abs()], -1).reshape(1, -1, 3)
    normals = estimate_normals(points, 9)
    left = (x.flatten() < -0.15) & (x.flatten() > -0.45)
    torch.testing.assert_close(
        normals[0, left],
        torch.tensor([-(0.5**0.5), 0, 0.5**0.5]).expand(int(left.sum()), 3),
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outward(dtype):
    points = ball(dtype=dtype)
    normals = estimate_normals(points + 3)
    assert normals.dtype == dtype and normals.shape == points.shape and not normals.requires_grad
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(2, 300, dtype=dtype))
    assert ((normals * points).sum(-1) > 0.9).all()


def test_published_normals_are_the_weighted_eigenvector_as_it_comes():
    points = ball()
    idx, _ = knn(points, points, 32)
    offsets = torch.stack([cloud[i] for cloud, i in zip(points, idx, strict=True)]) - points[:, :, None]
    normals = estimate_normals(points, orient="none")
    torch.testing.assert_close(normals, weighted_normal(offsets, "lapack"))
    along = (normals * points).sum(-1)
    assert along.min() < -0.9 and along.max() > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_outward_normals_turn_and_move_with_the_points(seed):
    points = ball(seed=seed) * torch.tensor([1, 0.6, 0.3]).double()
    turned = estimate_normals(points @ rotation(seed).T + 2)
    torch.testing.assert_close(turned, estimate_normals(points) @ rotation(seed).T, atol=1e-7, rtol=0)


def test_clouds_are_independent_and_padding_counts_for_nothing():
    points = ball()
    padded = torch.cat([points, torch.full((2, 40, 3), 9.0).double()], 1)
    found = estimate_normals(padded, valid=torch.tensor([300, 200]))
    torch.testing.assert_close(found[:1, :300], estimate_normals(points[:1]))
    torch.testing.assert_close(found[1:, :200], estimate_normals(points[1:, :200]))
    assert not found[0, 300:].any() and not found[1, 200:].any()


def test_blocks_give_the_same(monkeypatch):
    points = ball()
    whole = estimate_normals(points)
    monkeypatch.setattr("pointsuite.ops.normals._BLOCK", 32 * 7 * 2)
    torch.testing.assert_close(estimate_normals(points), whole)


def test_degenerate_clouds_are_finite():
    flat = torch.rand(1, 50, 3) * torch.tensor([1.0, 1, 0])
    for points in (flat, torch.ones(1, 40, 3), torch.rand(1, 50, 1) * torch.ones(3)):
        normals = estimate_normals(points)
        torch.testing.assert_close(normals.norm(dim=-1), torch.ones(points.shape[:2]))
    torch.testing.assert_close(estimate_normals(flat)[..., 2].abs(), torch.ones(1, 50))


def test_compile():
    points = ball()
    compiled = torch.compile(estimate_normals, backend="eager")(points)
    torch.testing.assert_close(compiled, estimate_normals(points))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"orient": "inward"}, ValueError, "orient must be one of .*'outward', 'none'.*, found 'inward'"),
        ({"k": 301}, ValueError, "found k=301 for 300 points"),
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"points": torch.zeros(5, 3)}, ValueError, "must have shape"),
        ({"points": torch.zeros(1, 40, 3).half()}, TypeError, "float32 or float64"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        estimate_normals(**{"points": ball(), **arguments})
