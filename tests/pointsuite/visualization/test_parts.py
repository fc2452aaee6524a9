import matplotlib.image
import numpy as np
import pytest

from pointsuite.visualization import PALETTE, draw_parts


def sphere():
    points = np.random.default_rng(0).normal(size=(150, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return np.hstack([points, points])


def test_truth_is_on_the_left_and_prediction_on_the_right(tmp_path):
    clouds = [sphere(), sphere()[:, :3], sphere()]
    truth = [np.full(150, part) for part in (0, 1, 2)]
    prediction = [np.full(150, part) for part in (1, 1, 0)]
    out = draw_parts(clouds, truth, prediction, list("abc"), tmp_path / "parts.png", columns=2)
    image = matplotlib.image.imread(out)[60:, :, :3]
    assert image.shape == (2 * 204, 4 * 180, 3)
    found = []
    for row in range(2):
        for column in range(4):
            tile = image[204 * row : 204 * row + 172, 180 * column : 180 * (column + 1)]
            drawn = tile[(tile < 0.99).any(-1)]
            if len(drawn):
                hue = drawn.mean(0) / np.linalg.norm(drawn.mean(0))
                found.append(int((PALETTE / np.linalg.norm(PALETTE, axis=1, keepdims=True) @ hue).argmax()))
    assert found == [0, 1, 1, 1, 2, 0]


def test_not_as_many():
    with pytest.raises(ValueError, match="found 2 clouds, 1 true parts, 1 predictions and 1 titles"):
        draw_parts([sphere()] * 2, [np.zeros(150)], [np.zeros(150)], ["a"], "a.png")
