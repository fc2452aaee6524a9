import numpy as np
import pytest
from PIL import Image

from pointsuite.engine.errors import UsageError
from pointsuite.visualization.samples import TILE
from tests.dense.classification.toy import write_project
from tests.tools.images import write_detection, write_segmentation
from tests.tools.load import load_tool
from tests.tools.tiny import CONFIG, OPTIONS

tool = load_tool("analysis/browse_dataset")


@pytest.fixture
def tiles(monkeypatch):
    """What is drawn, instead of the picture."""
    drawn = {}

    def draw_tiles(pictures, titles, columns, out, heading):
        drawn.update(pictures=pictures, titles=titles, columns=columns, out=out, heading=heading)

    monkeypatch.setattr("pointsuite.visualization.draw_tiles", draw_tiles)
    return drawn


def is_color(pixels, wanted):
    return np.abs(pixels.astype(int) - wanted).max() <= 10


def test_clouds(tmp_path, capsys):
    out = tmp_path / "clouds.png"
    tool.main([CONFIG, *OPTIONS, "--num", "3", "--out", str(out)])
    assert "clouds.png: 3 pictures of" in capsys.readouterr().out
    with Image.open(out) as picture:
        assert len(picture.convert("RGB").getcolors(2**24)) > 1000


def test_clouds_with_parts(tiles):
    tool.main([CONFIG.replace("risurconv-s_", "risurconv-s_partseg_"), "--num", "1"])
    (picture,) = tiles["pictures"]
    assert picture.shape == (TILE, TILE, 3) and picture.std() > 10
    assert tiles["out"].name == "train.png"


def test_classification(tmp_path, monkeypatch, tiles):
    monkeypatch.chdir(tmp_path)
    config = write_project(tmp_path)
    tool.main([config, "--num", "3", "--split", "val"])
    assert tiles["titles"] == ["0: blue", "4: green", "8: red"] and tiles["columns"] == 2
    assert [picture.mean((0, 1)).argmax() for picture in tiles["pictures"]] == [2, 1, 0]
    tool.main([config, "--num", "2", "--repeat", "3"])
    first, again = tiles["pictures"][:2]
    assert len(tiles["pictures"]) == 6 and tiles["columns"] == 3 and not np.array_equal(first, again)
    before = tiles["pictures"]
    tool.main([config, "--num", "2", "--repeat", "3"])
    assert all(np.array_equal(x, y) for x, y in zip(before, tiles["pictures"], strict=True))
    tool.main([config, "--num", "2", "--repeat", "3", "--seed", "1"])
    assert not all(np.array_equal(x, y) for x, y in zip(before, tiles["pictures"], strict=True))


def test_segmentation(tmp_path, monkeypatch, tiles):
    pytest.importorskip("mmseg")
    monkeypatch.chdir(tmp_path)
    tool.main([write_segmentation(tmp_path), "--num", "1"])
    (picture,) = tiles["pictures"]
    assert tiles["titles"] == ["0: 0.png"]
    left, right = picture[2, 2].astype(int), picture[2, 45].astype(int)  # the classes' colours over red
    assert np.abs(left - right).max() > 20 and left[0] > left[2]


def test_detection(tmp_path, monkeypatch, tiles):
    pytest.importorskip("mmdet")
    monkeypatch.chdir(tmp_path)
    tool.main([write_detection(tmp_path), "--num", "1"])
    (picture,) = tiles["pictures"]
    assert is_color(picture[2, 2], (5, 5, 250))  # the channels are in order
    red = picture[..., 0].astype(int)
    rows, columns = np.where(red > 150)  # the palette's colour
    assert abs(columns.min() - 10) <= 3 and abs(columns.max() - 40) <= 3 and abs(rows.max() - 45) <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num", "0"], "at least 1"),
        (["--cfg-options", "val_dataloader=None", "--split", "val"], "has no 'val_d"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UsageError, match=message):
        tool.main([CONFIG, *options])
