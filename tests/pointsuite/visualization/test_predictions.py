import h5py
import numpy as np
import pytest

from pointsuite.io import PointFileError
from pointsuite.visualization import draw_predictions, predictions, read_predictions

GOOD = {"index": [0, 3, 1, 2], "label": [0, 1, 1, 0], "prediction": [0, 1, 0, 0], "classes": ["dip", "relay"]}


@pytest.fixture
def files(tmp_path):
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["test/points"] = (
            np.arange(4)[:, None, None] + np.random.default_rng(0).normal(size=(4, 30, 3)) / 10
        )
    np.savez(tmp_path / "said.npz", **GOOD)
    return tmp_path / "set.h5", tmp_path / "said.npz"


def test_shapes_titles_and_matrix_belong_together(files, tmp_path, monkeypatch):
    grids, matrices = [], []
    monkeypatch.setattr(predictions, "draw_grid", lambda *args, **kwargs: grids.append((*args, kwargs)))
    monkeypatch.setattr(predictions, "draw_confusion_matrix", lambda *args, **kwargs: matrices.append(args))
    said = draw_predictions(*files, "grid.png", "matrix.png")
    assert said.classes == ["dip", "relay"]
    clouds, titles, correct, out, kwargs = grids[0]
    rows = [round(float(cloud.mean())) for cloud in clouds]
    assert sorted(rows) == [0, 1, 2, 3] and out == "grid.png"
    wanted = {
        0: ("dip -> dip", True),
        3: ("relay -> relay", True),
        1: ("relay -> dip", False),
        2: ("dip -> dip", True),
    }
    assert {r: (t, bool(c)) for r, t, c in zip(rows, titles, correct, strict=True)} == wanted
    assert kwargs["heading"] == "3 of 4 right (75.0 %)"
    np.testing.assert_array_equal(matrices[0][0], [[2, 0], [1, 1]])
    draw_predictions(*files, "grid.png", limit=2)
    assert (
        len(grids[1][0]) == 2
        and grids[1][4]["heading"].endswith(", 2 shown at random")
        and len(matrices) == 1
    )


def test_pictures_are_written(files, tmp_path):
    draw_predictions(*files, tmp_path / "grid.png", tmp_path / "matrix.png")
    assert (tmp_path / "grid.png").stat().st_size > 2000 and (tmp_path / "matrix.png").stat().st_size > 2000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "found no label, wanted index, label, prediction, classes"),
        ({"label": [0, 1]}, r"found label int64 \(2,\), wanted whole numbers \(M,\)"),
        ({"label": [0, 1, 1, 2]}, "found label 0..2, wanted 0 and below 2"),
        ({"prediction": [0, -1, 0, 0]}, "found prediction -1..0, wanted 0 and below 2"),
        ({"prediction": [0.0, 1, 0, 0]}, "found prediction float64"),
        ({"index": [0, 1, 2, -3]}, "found index -3..2"),
        ({"index": [], "label": [], "prediction": []}, "wanted whole numbers"),
        ({"classes": [None, "a"]}, "no readable npz"),
    ],
)
def test_refusals(tmp_path, change, message):
    path = tmp_path / "said.npz"
    np.savez(path, **{key: value for key, value in (GOOD | change).items() if value is not None})
    with pytest.raises(PointFileError, match=message) as info:
        read_predictions(path)
    assert str(info.value).startswith(f"{path}: found ") and "\n" not in str(info.value)


def test_a_row_that_the_data_set_lacks_is_refused(files, tmp_path):
    np.savez(files[1], **(GOOD | {"index": [0, 3, 1, 4]}))
    with pytest.raises(PointFileError, match="4 rows in test/points, wanted a row 4"):
        draw_predictions(*files, tmp_path / "grid.png")
    with pytest.raises(PointFileError, match="missing.npz: found no such file"):
        draw_predictions(files[0], tmp_path / "missing.npz", tmp_path / "grid.png")
