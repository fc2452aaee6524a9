import numpy as np
import pytest

from pointsuite.engine.corruptions import SEVERITIES
from pointsuite.registry import TRANSFORMS
from pointsuite.transforms import CORRUPTIONS, RepeatPoints

DROPPING = ("dropout, global", "dropout, local", "occlusion")
COUNT = 400


def make_sphere(seed=0):
    normals = np.random.default_rng(7).standard_normal((COUNT, 3))
    normals = (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)
    return {
        "points": normals.copy(),
        "normals": normals,
        "part": np.arange(COUNT),
        "rng": np.random.default_rng(seed),
    }


def corrupt(name, severity, seed=0):
    return CORRUPTIONS[name](severity)(make_sphere(seed))


def angles(sample, clean):
    return np.degrees(np.arccos((sample["normals"] * clean).sum(1).clip(-1, 1)))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_shapes_units_and_randomness(name, severity):
    clean, found = make_sphere(), corrupt(name, severity)
    for key in ("points", "normals"):
        assert found[key].dtype == np.float32 and found[key].shape == (len(found["part"]), 3)
        np.testing.assert_array_equal(found[key], corrupt(name, severity)[key])  # by the rng alone
        np.testing.assert_array_equal(make_sphere()[key], clean[key])
    np.testing.assert_allclose(np.linalg.norm(found["normals"], axis=1), 1, atol=1e-5)
    level = CORRUPTIONS[name].levels[severity - 1]
    assert len(found["part"]) == COUNT - (round(level * COUNT) if name in DROPPING else 0)
    if name in DROPPING:  # what is left is as it was, in its order
        np.testing.assert_array_equal(found["points"], clean["points"][found["part"]])
        assert (np.diff(found["part"]) > 0).all()
    if (name, severity) != ("normals, estimated", 1):  # an estimate without noise has nothing to draw
        other = corrupt(name, severity, seed=1)
        assert any(not np.array_equal(found[key], other[key]) for key in ("points", "normals"))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_registered_and_checked(name):
    kind = CORRUPTIONS[name]
    assert list(kind.levels) == sorted(set(kind.levels)) and len(kind.levels) == 5
    assert TRANSFORMS.build({"type": f"pointsuite.{kind.__name__}", "severity": 3}) == kind(3)
    for severity in (0, 6, 1.5):
        with pytest.raises(ValueError, match=f"{kind.__name__}: severity is {severity}, wanted 1 to 5"):
            kind(severity)


def test_jitter_moves_points_only():
    clean, found = make_sphere(), corrupt("jitter", 5)
    assert (found["points"] - clean["points"]).std() == pytest.approx(0.05, rel=0.1)
    np.testing.assert_array_equal(found["normals"], clean["normals"])


def test_local_dropout_makes_holes():
    """Around the middle of the largest hole lie fewer points than after a dropout of as many at random."""
    clean = make_sphere()["points"]

    def gap(part):  # from a point that is missing to the nearest that is left, the largest
        missing, left = np.delete(clean, part, 0), clean[part]
        return np.linalg.norm(missing[:, None] - left[None], axis=2).min(1).max()

    local = np.mean([gap(corrupt("dropout, local", 3, seed)["part"]) for seed in range(8)])
    spread = [make_sphere(seed)["rng"].permutation(COUNT)[: COUNT * 7 // 10] for seed in range(8)]
    assert local > 1.5 * np.mean([gap(part) for part in spread])


def test_outliers():
    clean, found = make_sphere(), corrupt("outliers", 5)
    moved = (found["points"] != clean["points"]).any(1)
    assert moved.sum() == 20 and (moved == (found["normals"] != clean["normals"]).any(1)).all()
    assert (np.linalg.norm(found["points"][moved], axis=1) < 1).all()


def test_scale_keeps_normals_at_right_angles():
    found = corrupt("scale", 5)
    factors = np.abs(found["points"]).max(0) / np.abs(make_sphere()["points"]).max(0)
    assert np.ptp(factors) > 0.1 and (factors > 0.49).all() and (factors < 2.01).all()
    wanted = make_sphere()["normals"] / factors
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(found["normals"], wanted, atol=1e-5)


def test_occlusion_cuts_by_a_plane():
    found, clean = corrupt("occlusion", 5)["part"], make_sphere()["points"]
    direction = clean[found].mean(0)  # of half a sphere: along the cut's normal, up to sampling
    assert np.linalg.norm(direction) > 0.4
    depth = clean @ direction
    assert (depth[found] > -0.1).mean() > 0.95 and (np.delete(depth, found) < 0.1).mean() > 0.95


def test_normals():
    clean = make_sphere()["normals"]
    for severity, level in zip(SEVERITIES, (5, 10, 15, 20, 30), strict=True):
        found = corrupt("normals, noise", severity)
        # the mean of |x| for a normally distributed x is 0.8 standard deviations
        assert angles(found, clean).mean() == pytest.approx(0.798 * level, rel=0.15)
        np.testing.assert_array_equal(found["points"], make_sphere()["points"])
        flipped = corrupt("normals, flipped", severity)
        assert (angles(flipped, clean) > 179).sum() == COUNT * severity // 10
        assert (angles(flipped, clean) < 1).sum() == COUNT - COUNT * severity // 10


def test_estimated_normals_get_worse():
    clean = make_sphere()["normals"]
    means = [angles(corrupt("normals, estimated", severity), clean).mean() for severity in SEVERITIES]
    assert means == sorted(means) and 0 < means[0] < 15
    np.testing.assert_array_equal(corrupt("normals, estimated", 5)["points"], make_sphere()["points"])


def test_repeat_points():
    sample = make_sphere()
    assert RepeatPoints(COUNT)(sample) is sample
    part = RepeatPoints(3 * COUNT)(sample)["part"]
    np.testing.assert_array_equal(part[:COUNT], np.arange(COUNT))
    np.testing.assert_array_equal(np.bincount(part), 3)
    with pytest.raises(ValueError, match="num is 0, wanted at least 1"):
        RepeatPoints(0)
