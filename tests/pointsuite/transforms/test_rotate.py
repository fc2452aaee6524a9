import numpy as np
import pytest

from pointsuite.transforms import RandomRotate, RotateBy, random_rotation
from pointsuite.transforms.rotate import rotate


def make_sample(seed=0, count=50):
    rng = np.random.default_rng(seed)
    normals = rng.standard_normal((count, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    points = rng.standard_normal((count, 3)).astype(np.float32)
    return {"points": points, "normals": normals, "rng": np.random.default_rng(seed)}


@pytest.mark.parametrize("mode", ["z", "so3", "none"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_draw_is_a_rotation(mode, axis):
    rng = np.random.default_rng(0)
    for _ in range(50):
        matrix = random_rotation(rng, mode, axis)
        assert matrix.dtype == np.float64
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-14)
        assert np.isclose(np.linalg.det(matrix), 1)
        if mode == "z":
            np.testing.assert_array_equal(matrix[axis], np.eye(3)[axis])
            np.testing.assert_array_equal(matrix[:, axis], np.eye(3)[axis])


def test_so3_follows_the_haar_measure():
    rng = np.random.default_rng(0)
    matrices = np.stack([random_rotation(rng) for _ in range(4000)])
    np.testing.assert_allclose(matrices.mean(0), 0, atol=0.04)  # every entry is uniform-like around 0
    # the image of any axis is uniform on the sphere, so each of its coordinates is uniform in [-1, 1]
    for column in range(3):
        for row in range(3):
            share = np.histogram(matrices[:, row, column], 5, (-1, 1))[0] / 4000
            np.testing.assert_allclose(share, 0.2, atol=0.03)
    # the angle has density (1 - cos) / pi: P(angle < pi/2) = 1/2 - 1/pi; Euler angles would not give that
    angle = np.arccos(((matrices.trace(axis1=1, axis2=2) - 1) / 2).clip(-1, 1))
    assert abs((angle < np.pi / 2).mean() - (0.5 - 1 / np.pi)) < 0.025


def test_z_angles_are_uniform():
    rng = np.random.default_rng(0)
    matrices = np.stack([random_rotation(rng, "z") for _ in range(4000)])
    angle = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    np.testing.assert_allclose(np.histogram(angle, 8, (-np.pi, np.pi))[0] / 4000, 1 / 8, atol=0.025)


def test_points_and_normals_turn_together():
    sample = make_sample()
    turned = RandomRotate("so3")(sample)
    assert turned["points"].dtype == turned["normals"].dtype == np.float32
    assert not np.allclose(turned["points"], sample["points"], atol=0.1)
    matrix = random_rotation(np.random.default_rng(0))
    np.testing.assert_allclose(turned["points"], sample["points"] @ matrix.T, atol=1e-5)
    np.testing.assert_allclose(turned["normals"], sample["normals"] @ matrix.T, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(turned["normals"], axis=1), 1, atol=1e-5)


def test_mode_none_and_mode_z():
    sample = make_sample()
    np.testing.assert_array_equal(RandomRotate("none")(sample)["points"], sample["points"])
    turned = RandomRotate("z", axis=1)(sample)
    np.testing.assert_array_equal(turned["points"][:, 1], sample["points"][:, 1])
    assert not np.allclose(turned["points"][:, 0], sample["points"][:, 0], atol=0.01)


def test_every_sample_has_its_own_rotation():
    sample = make_sample()
    transform = RandomRotate("so3")
    first, second = transform(sample)["points"], transform(sample)["points"]
    assert not np.allclose(first, second, atol=0.01)
    sample["rng"] = np.random.default_rng(0)
    np.testing.assert_array_equal(transform(sample)["points"], first)


def test_rotate_by():
    quarter = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    sample = {"points": np.float32([[1, 2, 3]]), "normals": np.float32([[1, 0, 0]])}
    turned = RotateBy(quarter)(sample)
    assert turned["points"].tolist() == [[-2, 1, 3]] and turned["normals"].tolist() == [[0, 1, 0]]
    seeded = RotateBy(seed=[1, 2])
    np.testing.assert_array_equal(seeded.matrix, RotateBy(seed=[1, 2]).matrix)
    assert not np.allclose(seeded.matrix, RotateBy(seed=[1, 3]).matrix)
    np.testing.assert_array_equal(RotateBy(seed=0, mode="z", axis=0).matrix[0], [1, 0, 0])
    back = rotate(rotate(make_sample(), seeded.matrix), seeded.matrix.T)
    np.testing.assert_allclose(back["points"], make_sample()["points"], atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomRotate("xyz"), "RandomRotate: mode is 'xyz', wanted one of"),
        (lambda: RandomRotate("z", axis=3), "RandomRotate: axis is 3, wanted 0, 1 or 2"),
        (lambda: RotateBy(), "matrix is None and seed is None, wanted one of the two"),
        (lambda: RotateBy(np.eye(3), seed=0), "wanted one of the two"),
        (lambda: RotateBy(np.diag([1, 1, -1])), "is no rotation matrix"),
        (lambda: RotateBy(2 * np.eye(3)), "is no rotation matrix"),
        (lambda: RotateBy(np.eye(2)), "is no rotation matrix"),
        (lambda: RotateBy(np.full((3, 3), np.nan)), "is no rotation matrix"),
        (lambda: RotateBy(seed=0, mode="x"), "RotateBy: mode is 'x'"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_z_rotations_are_about_the_axis_that_points_up_in_the_data(up):
    """Of a data set with y up, the published rotations "z" turn about y."""
    sample = {"points": np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32), "up": up}
    turned = RandomRotate("z")({**sample, "rng": np.random.default_rng(1)})
    kept = np.isclose(turned["points"], sample["points"]).all(axis=0)
    assert kept.tolist() == [axis == up for axis in "xyz"]
    told = RandomRotate("z", axis=0)({**sample, "rng": np.random.default_rng(1)})
    assert np.allclose(told["points"][:, 0], sample["points"][:, 0]) and "normals" not in told
