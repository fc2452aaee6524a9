import matplotlib.image
import numpy as np
import pytest

from pointsuite.visualization import draw_grid
from pointsuite.visualization.scene import RIGHT, WRONG


def tile_hues(path, columns: int, rows: int) -> np.ndarray:
    """The mean direction, in RGB, of what is drawn in each tile."""
    image = matplotlib.image.imread(path)[..., :3]
    side = image.shape[1] // columns
    image = image[-rows * (side + 36) :]
    hues = []
    for row in range(rows):
        for column in range(columns):
            tile = image[row * (side + 36) : row * (side + 36) + side, column * side : (column + 1) * side]
            drawn = tile[(tile < 1).any(axis=-1)]
            hues.append(drawn.mean(axis=0) if len(drawn) else np.ones(3))
    return np.array(hues)


def test_right_and_wrong_shapes_have_their_colours_in_their_tiles(tmp_path):
    rng = np.random.default_rng(0)
    clouds = []
    for i in range(5):
        normals = rng.normal(size=(200, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        clouds.append(np.hstack([normals, normals]) if i % 2 else normals)
    correct = [True, False, True, True, False]
    out = draw_grid(
        clouds, ["a -> a"] * 5, correct, tmp_path / "sub" / "grid.png", columns=3, heading="3 of 5 right"
    )
    assert matplotlib.image.imread(out).shape[:2] == (48 + 2 * 216, 3 * 180)
    hues = tile_hues(out, 3, 2)
    np.testing.assert_array_equal(hues[5], 1)  # no sixth shape
    blue = [h @ RIGHT / np.linalg.norm(h) / np.linalg.norm(RIGHT) for h in hues[:5]]
    vermilion = [h @ WRONG / np.linalg.norm(h) / np.linalg.norm(WRONG) for h in hues[:5]]
    np.testing.assert_array_equal(np.greater(blue, vermilion), correct)


def test_columns_follow_the_count_and_long_titles_break(tmp_path):
    cloud = np.random.default_rng(0).normal(size=(50, 3))
    title = "pluggable_terminal -> terminal_block"
    one = matplotlib.image.imread(draw_grid([cloud], [title], [True], tmp_path / "one.png"))
    assert one.shape[:2] == (48 + 216, 180)
    caption = one[48 + 182 :, :, :3]
    assert (caption[:, [0, -1]] == 1).all() and (caption < 1).any()  # not cut off at the sides
    lines = np.diff((caption < 1).any(axis=(1, 2)).astype(int)) == 1
    assert lines.sum() >= 2
    six = matplotlib.image.imread(draw_grid([cloud] * 6, [""] * 6, [True] * 6, tmp_path / "six.png"))
    assert six.shape[:2] == (48 + 2 * 216, 3 * 180)


def test_a_name_that_is_longer_than_a_tile_breaks(tmp_path):
    title = "a_name_of_a_class_that_is_long -> another_name_of_a_class_that_is_long_too"
    cloud = np.random.default_rng(0).normal(size=(50, 3))
    picture = matplotlib.image.imread(draw_grid([cloud] * 2, [title, "a"], [True] * 2, tmp_path / "a.png"))
    caption = (picture[48 + 182 :, :180, :3] < 1).any(-1)
    assert picture.shape[0] > 48 + 216 and not caption[:, [0, -1]].any() and not caption[-1].any()
    assert (np.diff(caption.any(1).astype(int)) == 1).sum() >= 4


@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 1, 2), (2, 2, 1)])
def test_counts_must_agree(tmp_path, counts):
    clouds, titles, correct = counts
    with pytest.raises(
        ValueError, match=f"found {clouds} clouds, {titles} titles and {correct} truth values"
    ):
        draw_grid([np.zeros((3, 3))] * clouds, [""] * titles, [True] * correct, tmp_path / "grid.png")
