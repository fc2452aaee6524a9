import numpy as np
import pytest

from pointsuite.transforms import NormalizeUnitSphere


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-6, 0), (1e6, -3e6), (1e-3, 100)])
def test_centroid_at_the_origin_and_radius_one(scale, offset):
    rng = np.random.default_rng(0)
    points = (rng.standard_normal((500, 3)) * scale + offset).astype(np.float32)
    normals = np.tile(np.float32([0, 0, 1]), (500, 1))
    before = points.copy()
    sample = NormalizeUnitSphere()({"points": points, "normals": normals, "label": 3})
    assert sample["points"].dtype == np.float32 and sample["label"] == 3 and sample["normals"] is normals
    np.testing.assert_allclose(sample["points"].mean(0), 0, atol=1e-6)
    assert abs(np.linalg.norm(sample["points"], axis=1).max() - 1) < 1e-6
    np.testing.assert_array_equal(points, before)  # the input is left alone


@pytest.mark.parametrize("value", [0.0, 0.1, -7e7, 1e-30])
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_copies_of_one_point_become_zeros(value, count):
    points = np.full((count, 3), value, np.float32)
    np.testing.assert_array_equal(NormalizeUnitSphere()({"points": points})["points"], 0)
