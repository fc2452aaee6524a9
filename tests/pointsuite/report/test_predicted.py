import base64
import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from pointsuite.engine.errors import UsageError
from pointsuite.report import write_images, write_predictions
from pointsuite.report.predicted import side_by_side


def pictures(page):
    found = re.findall(r'<img src="data:image/\w+;base64,([^"]+)"', page.read_text())
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


def texts(page, kind):
    return [html.unescape(each) for each in re.findall(f'<span class="{kind}">([^<]*)', page.read_text())]


@pytest.fixture
def predicted(tmp_path):
    """What tools/predict.py writes about a poor image, a cloud and a text."""
    Image.new("RGB", (10, 8), (200, 0, 0)).save(tmp_path / "poor.png")
    Image.new("RGB", (20, 16), (0, 200, 0)).save(tmp_path / "good.png")
    np.savetxt(tmp_path / "part.xyz", np.random.default_rng(0).normal(size=(40, 3)))
    (tmp_path / "words.txt").write_text("once upon a time")
    records = [
        {"file": str(tmp_path / "poor.png"), "scale": 2, "files": [str(tmp_path / "good.png")]},
        {"file": str(tmp_path / "part.xyz"), "class": "dip", "probabilities": {"so": 0.25, "dip": 0.75}},
        {"file": str(tmp_path / "words.txt"), "text": "there <b>was"},
    ]
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({"weights": "mine.pth", "predictions": records}))
    return path


def test_files_beside_what_was_predicted(predicted, tmp_path):
    out = tmp_path / "page.html"
    assert write_predictions(predicted, out) == 3
    (picture,) = pictures(out)
    assert picture.shape == (16, 20 + 6 + 20, 3)
    assert picture[8, 4].tolist() == [200, 0, 0] and picture[8, 40].tolist() == [0, 200, 0]
    assert texts(out, "title") == ["poor.png", "part.xyz", "words.txt"]
    assert texts(out, "note") == ['"scale": 2', "dip 75.0 %, so 25.0 %; 40 points", '"text": "there <b>was"']
    assert out.read_text().count("data-cloud=") == 1 and "<b>was" not in out.read_text()
    assert write_predictions(predicted, out, limit=1) == 1
    assert "3 predictions, the first 1 are shown; weights: mine.pth" in out.read_text()


def test_images_of_a_folder(predicted, tmp_path):
    assert write_images(tmp_path, tmp_path / "all.html") == 2
    assert texts(tmp_path / "all.html", "title") == ["good.png", "poor.png"]


def test_deep_images_and_folders_in_folders(tmp_path):
    """A level of 16 bits is shown by its higher 8, as every reader has it."""
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((4, 4), 128 * 256, np.uint16)).save(tmp_path / "in/deep.PNG")
    assert write_images(tmp_path, tmp_path / "all.html") == 1
    text = (tmp_path / "all.html").read_text()
    assert texts(tmp_path / "all.html", "title") == ["in/deep.PNG"]
    data = base64.b64decode(re.search(r"data:image/png;base64,([^&\"]+)", text)[1])
    assert (np.asarray(Image.open(io.BytesIO(data))) == 128).all()


def test_side_by_side_has_one_height():
    shapes = [(4, 6, 3), (8, 2, 3)]
    assert side_by_side([np.zeros(shape, np.uint8) for shape in shapes]).shape == (8, 12 + 6 + 2, 3)


def test_bad_input(predicted, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    for function, content, message in (
        (write_predictions, {"predictions": []}, "found no prediction to show"),
        (write_predictions, {"a": 1}, "found no predictions of files, wanted what tools/predict.py"),
        (write_images, tmp_path / "empty", "a folder without images"),
        (write_images, tmp_path / "cut.png", "cut.png: not an image that can be read"),
        (write_images, tmp_path / "none.png", "none.png"),
    ):
        if isinstance(content, dict):
            predicted.write_text(json.dumps(content))
            content = predicted
        with pytest.raises((UsageError, OSError), match=message):
            function(content, tmp_path / "x.html")
        assert not (tmp_path / "x.html").exists()
