import numpy as np
import pytest

from pointsuite.transforms import RandomJitter, RandomRotate, RandomScale, RandomShift


def make_sphere(count=2000, seed=0):
    """A unit sphere with its normals, and two tangents a point."""
    rng = np.random.default_rng(seed)
    normals = rng.standard_normal((count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    first = np.cross(normals, rng.standard_normal((count, 3)))
    sample = {
        "points": normals.astype(np.float32),
        "normals": normals.astype(np.float32),
        "rng": np.random.default_rng(seed),
    }
    return sample, np.stack([first, np.cross(normals, first)])


def test_jitter():
    sample, _ = make_sphere(20000)
    moved = RandomJitter(0.02, 0.03)(sample)
    noise = moved["points"] - sample["points"]
    assert moved["points"].dtype == np.float32 and moved["normals"] is sample["normals"]
    assert 0.029 < np.abs(noise).max() < 0.0301
    # a normal distribution cut at 1.5 sigma, the cut-off mass kept at the cut
    assert abs((np.abs(noise) > 0.0299).mean() - 0.136) < 0.01 and abs(noise.mean()) < 1e-3
    np.testing.assert_array_equal(RandomJitter(0)(sample)["points"], sample["points"])


def test_isotropic_scale():
    sample, _ = make_sphere()
    factors = [np.linalg.norm(RandomScale(0.5, 2)(sample)["points"][0]) for _ in range(300)]
    assert 0.5 <= min(factors) < 0.6 and 1.9 < max(factors) <= 2.0001
    scaled = RandomScale(0.5, 2)(sample)
    ratio = scaled["points"] / sample["points"]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
    assert scaled["points"].dtype == np.float32 and scaled["normals"] is sample["normals"]


def test_anisotropic_scale_keeps_normals_unit_and_perpendicular_to_the_surface():
    sample, tangents = make_sphere()
    scaled = RandomScale(0.4, 2.5, anisotropic=True)(sample)
    scale = np.random.default_rng(0).uniform(0.4, 2.5, 3)
    np.testing.assert_allclose(scaled["points"], sample["points"] * scale, rtol=1e-5)
    assert np.ptp(scale) > 0.2 and scaled["normals"].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(scaled["normals"], axis=1), 1, atol=1e-6)
    for tangent in tangents:  # tangents of the ellipsoid are those of the sphere, scaled
        np.testing.assert_allclose(((tangent * scale) * scaled["normals"]).sum(1), 0, atol=1e-5)
    assert ((scaled["normals"] * sample["normals"]).sum(1) > 0).all()


def test_shift_moves_all_points_alike():
    sample, _ = make_sphere()
    shifts = np.stack([(RandomShift(0.3)(sample)["points"] - sample["points"]) for _ in range(100)])
    assert np.ptp(shifts, axis=1).max() < 1e-6
    assert 0.25 < np.abs(shifts).max() <= 0.3001 and np.ptp(shifts[:, 0], axis=0).min() > 0.4
    assert RandomShift()(sample)["points"].dtype == np.float32


@pytest.mark.parametrize(
    "transform", [RandomJitter(), RandomScale(anisotropic=True), RandomShift(), RandomRotate()]
)
def test_equal_generators_give_equal_samples(transform):
    first, second, other = (make_sphere()[0] for _ in range(3))
    other["rng"] = np.random.default_rng(1)
    before = first["points"].copy()
    result = transform(first)["points"]
    np.testing.assert_array_equal(result, transform(second)["points"])
    assert not np.array_equal(result, transform(other)["points"])
    np.testing.assert_array_equal(first["points"], before)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomJitter(-0.1), "RandomJitter.*sigma=-0.1.*wanted sigma >= 0 and clip > 0"),
        (lambda: RandomJitter(clip=0), "RandomJitter"),
        (lambda: RandomScale(0, 1), "RandomScale.*low=0.*wanted 0 < low <= high"),
        (lambda: RandomScale(2, 1), "RandomScale"),
        (lambda: RandomScale(1, float("nan")), "RandomScale"),
        (lambda: RandomShift(-1), "RandomShift: max_shift is -1, wanted at least 0"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
