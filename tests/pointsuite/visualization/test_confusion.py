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
    assert min(picture.shape[:2]) > 300 and len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50
    assert texts == [(0, 0, "30"), (0, 1, "10"), (1, 1, "1")]
    np.testing.assert_array_equal(images[0], [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros((3, 3)), [[1, -1], [0, 0]]])
def test_refusals(tmp_path, matrix):
    with pytest.raises(ValueError, match=r"for 2 classes, wanted counts \(2, 2\)"):
        draw_confusion_matrix(matrix, ["a", "b"], tmp_path / "matrix.png")
