import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes

from pointsuite.visualization import draw_confusion_matrix


def test_counts_are_written_and_rows_are_coloured_by_their_shares(tmp_path, monkeypatch):
    texts, images = [], []
    text, imshow = Axes.text, Axes.imshow
    monkeypatch.setattr(
        Axes, "text", lambda self, x, y, s, **k: texts.append((y, x, s)) or text(self, x, y, s, **k)
    )
    monkeypatch.setattr(Axes, "imshow", lambda self, a, **k: images.append(a) or imshow(self, a, **k))
    matrix = np.array([[30, 10, 0], [0, 1, 0], [0, 0, 0]])
    out = draw_confusion_matrix(
        matrix, ["relay", "dip", "so"], tmp_path / "new" / "matrix.png", heading="31 of 41"
    )
    picture = matplotlib.image.imread(out)
    assert min(picture.shape[:2]) > 200 and len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50
    assert texts == [(0, 0, "30"), (0, 1, "10"), (1, 1, "1")]
    np.testing.assert_array_equal(images[0], [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("count", [1, 3, 6, 12])
def test_long_names_are_not_cut_off(tmp_path, count):
    names = [f"an_integrated_circuit_with_{i}_long_legs" for i in range(count)]
    heading = "17,011 of 20,000 right; the 40 classes of 1000 with most errors, chosen among all"
    out = draw_confusion_matrix(np.ones((count, count), int), names, tmp_path / "a.png", heading=heading)
    drawn = (matplotlib.image.imread(out)[..., :3] < 1).any(-1)
    assert not drawn[[0, -1]].any() and not drawn[:, [0, -1]].any()  # nothing reaches the edge
    short = draw_confusion_matrix(np.ones((count, count), int), ["a"] * count, tmp_path / "b.png")
    assert min(np.subtract(drawn.shape, matplotlib.image.imread(short).shape[:2])) > 60  # room for the names


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros((3, 3)), [[1, -1], [0, 0]]])
def test_refusals(tmp_path, matrix):
    with pytest.raises(ValueError, match=r"for 2 classes, wanted counts \(2, 2\)"):
        draw_confusion_matrix(matrix, ["a", "b"], tmp_path / "matrix.png")
