import json
import re
from base64 import b64decode

import numpy as np
import pytest

from pointsuite.visualization import Exhibit, draw_predictions, write_page
from pointsuite.visualization.page import MOST_POINTS
from tests.chromium import look, needs_chromium


def cloud(count=50, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)) * [3, 2, 1] + 1e4


def data_of(path):
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', path.read_text(), re.DOTALL)[1])


def test_points_and_colours_are_in_the_page(tmp_path):
    points, colors = cloud(), np.linspace(0, 1, 150).reshape(50, 3)
    out = write_page(tmp_path / "new" / "a.html", [Exhibit(points, "a", colors)], title="one")
    (found,) = data_of(out)
    shown = np.frombuffer(b64decode(found["points"]), "<f4").reshape(-1, 3)
    wanted = (points - points.mean(0)) / np.ptp(points, axis=0).max()
    np.testing.assert_allclose(shown, wanted, atol=1e-6)  # also far from the origin
    np.testing.assert_allclose(
        np.frombuffer(b64decode(found["colors"]), np.uint8) / 255, colors.ravel(), atol=0.003
    )
    assert found["count"] == "50 points" and found["right"] is None


def test_the_axis_that_points_up(tmp_path):
    (found,) = data_of(write_page(tmp_path / "a.html", [Exhibit(cloud(), "a", up="y")], title="one"))
    shown = np.frombuffer(b64decode(found["points"]), "<f4").reshape(-1, 3)
    spread = cloud().std(0)
    np.testing.assert_allclose(shown.std(0) / shown.std(0).max(), spread[[2, 0, 1]] / spread.max(), atol=1e-5)


def test_many_points_are_thinned_and_that_is_said(tmp_path):
    points = np.zeros((MOST_POINTS + 1, 3))
    (found,) = data_of(write_page(tmp_path / "a.html", [Exhibit(points, "a", "height")], title="one"))
    assert len(b64decode(found["points"])) == 12 * (MOST_POINTS // 2 + 1)
    assert found["count"] == "200,001 points, every 2th is shown"


def test_text_is_no_markup(tmp_path):
    hostile = "</script><script>alert(1)</script><!-- <b>"
    out = write_page(
        tmp_path / "a.html",
        [Exhibit(cloud(), hostile, "part", part=np.arange(50) % 2)],
        title=hostile,
        heading=hostile,
        legend=["<i>", "b"],
    )
    text = out.read_text()
    ours = text.split("/**", 1)[0]  # before the library
    assert ours.count("</script>") == 1 and not re.search("alert.1.<|<b>|<i>|<!-- ", ours)
    assert data_of(out)[0]["title"] == hostile


def test_bad_input(tmp_path):
    for exhibits, name, message in (
        ([], "a.html", "found no clouds to write"),
        ([Exhibit(cloud(), "a")], "a.htm5", "found the suffix '.htm5', wanted .html"),
        ([Exhibit(np.full((4, 3), np.nan), "b")], "a.html", r"a.html: b: points are \(4, 3\), wanted finite"),
        ([Exhibit(cloud(), "a", "normals")], "a.html", "the cloud has no normals"),
    ):
        with pytest.raises(ValueError, match=message):
            write_page(tmp_path / name, exhibits, title="one")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def predictions(tmp_path):
    import h5py

    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["test/points"] = np.random.default_rng(0).normal(size=(4, 300, 3))
    said = {
        "index": [0, 3, 1, 2],
        "label": [0, 1, 1, 0],
        "prediction": [0, 1, 0, 0],
        "classes": ["dip", "relay"],
    }
    np.savez(tmp_path / "said.npz", **said)
    draw_predictions(tmp_path / "set.h5", tmp_path / "said.npz", tmp_path / "said.html")
    return tmp_path / "said.html"


def test_predictions(predictions):
    found = {(shape["title"], shape["right"]) for shape in data_of(predictions)}
    assert found == {("dip -> dip", True), ("relay -> relay", True), ("relay -> dip", False)}
    assert "3 of 4 right (75.0 %)" in predictions.read_text()


@needs_chromium
def test_in_a_browser(predictions, tmp_path):
    """It loads without an error, lists all shapes, and draws the first: many colours in the picture."""
    text, said, image = look(predictions, tmp_path)
    assert "Uncaught" not in said, said
    assert len(re.findall(r"<button data-i=", text.split('id="list"')[1].split("</nav>")[0])) == 4
    assert re.search(r'id="caption">[^<]+ \(300 points\)<', text)
    assert len(np.unique(image[50:500, 330:].reshape(-1, 3), axis=0)) > 50
