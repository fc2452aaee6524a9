import numpy as np
import pytest

from pointsuite.transforms import EstimateNormals, RotateBy


@pytest.fixture
def ball():
    points = np.random.default_rng(0).normal(size=(200, 3)) * [1, 0.7, 0.5]
    points /= np.linalg.norm(points / [1, 0.7, 0.5], axis=1, keepdims=True)
    return {"points": points.astype(np.float32), "normals": np.zeros((200, 3), np.float32), "label": 3}


def test_outward_normals_of_an_ellipsoid(ball):
    ball["points"] += np.float32([4, -2, 1])
    found = EstimateNormals(k=16)(ball)
    true = (ball["points"] - [4, -2, 1]) / [1, 0.49, 0.25]
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    assert (np.sum(found["normals"] * true, axis=1) > 0.85).all()
    assert found["normals"].dtype == np.float32 and found["normals"].shape == (200, 3)
    assert found["label"] == 3 and not ball["normals"].any()
    np.testing.assert_array_equal(found["points"], ball["points"])


def test_outward_normals_are_those_of_the_rotated_cloud(ball):
    """Behind a rotation or before it: the same. Unoriented ones are not: what order they come in counts."""
    rotation = RotateBy(seed=1)
    estimate = EstimateNormals()
    np.testing.assert_allclose(
        estimate(rotation(ball))["normals"], rotation(estimate(ball))["normals"], atol=1e-4
    )
    published = EstimateNormals(orient="none")
    behind, before = published(rotation(ball))["normals"], rotation(published(ball))["normals"]
    cosine = np.sum(behind * before, axis=1)
    np.testing.assert_allclose(np.abs(cosine), 1, atol=1e-4)
    assert cosine.min() < -0.9 and cosine.max() > 0.9


def test_errors(ball):
    with pytest.raises(ValueError, match="found k=32 for 20 points"):
        EstimateNormals()({**ball, "points": ball["points"][:20]})
    for arguments in ({"k": 2}, {"orient": "inward"}):
        with pytest.raises(ValueError, match="wanted k >= 3 and orient 'outward' or 'none'"):
            EstimateNormals(**arguments)
