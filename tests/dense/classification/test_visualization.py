import io

import numpy as np
import pytest
from PIL import Image

from dense.classification.visualization import NEAR, ROOT, draw_heads, draw_heat, draw_tree, tree_depths


def test_heads(tmp_path):
    out = draw_heads(np.arange(12).reshape(3, 4), "distance", tmp_path / "new.png", first=2)
    assert Image.open(io.BytesIO(out.read_bytes())).size == (660, 440)
    other = draw_heads(np.zeros((3, 4)), "distance", tmp_path / "other.png")
    assert other.read_bytes() != out.read_bytes()
    for wrong in (np.zeros(3), np.zeros((0, 4))):
        with pytest.raises(ValueError, match=r"\(blocks, heads\), at least one, found"):
            draw_heads(wrong, "distance", out)


def test_depths():
    assert tree_depths([1, -1, 1, 2, 3]).tolist() == [1, 0, 1, 2, 3]
    for parents in ([1, 0, -1], [-1, -1], [0]):
        with pytest.raises(ValueError, match="a tree has one root"):
            tree_depths(parents)


def test_tree():
    """Lines lead from patch to patch, and the root is where it is."""
    image = np.full((20, 30, 3), 128, np.uint8)
    picture = draw_tree(image, [1, -1, 1, 0, 1, 2], (2, 3), least=40)
    assert picture.shape == (40, 60, 3) and picture.dtype == np.uint8
    assert tuple(picture[10, 30]) == ROOT and tuple(picture[10, 19]) != (128, 128, 128)
    assert tuple(picture[20, 30]) != (128, 128, 128)  # from 4, below, to 1
    assert tuple(picture[38, 2]) == (128, 128, 128)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) >= 4 and NEAR != ROOT
    with pytest.raises(ValueError, match=r"a grid of 2 x 2 has 4 parents, found \(6,\)"):
        draw_tree(image, [1, -1, 1, 0, 1, 2], (2, 2))


def test_heat():
    """Red where values are high, blue where they are low; the image shines through."""
    image = np.full((20, 30, 3), 100, np.uint8)
    picture = draw_heat(image, [[0, 1, 2]], least=40)
    assert picture.shape == (40, 60, 3) and picture.dtype == np.uint8
    assert picture[20, 1, 2] > picture[20, 1, 0] and picture[20, 58, 0] > picture[20, 58, 2]
    assert np.isfinite(draw_heat(image, [[3.0]])).all()
    for wrong in (np.zeros(3), np.zeros((0, 2))):
        with pytest.raises(ValueError, match=r"values must be \(h, w\), at least one, found"):
            draw_heat(image, wrong)
