import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from PIL import Image

from pointsuite.engine.errors import UsageError
from pointsuite.visualization import build_drawer, draw_tiles


def test_inputs_that_cannot_be_drawn():
    draw = build_drawer(Config({"model": {}}), {})
    sample = BaseDataElement()
    with pytest.raises(UsageError, match=r"an array \(1, 2, 3, 4, 4\), wanted a cloud"):
        draw({"inputs": torch.zeros(1, 2, 3, 4, 4), "data_samples": sample})
    with pytest.raises(UsageError, match="inputs are list, wanted"):
        draw({"inputs": [], "data_samples": sample})
    picture, title = draw({"inputs": torch.linspace(-1, 1, 16).view(1, 4, 4), "data_samples": sample})
    assert picture.shape == (4, 4, 3) and (picture.min(), picture.max(), title) == (0, 255, "")
    pair = torch.stack([torch.zeros(3, 4, 5), torch.ones(3, 4, 5)])
    picture, _ = draw({"inputs": pair, "data_samples": sample})  # side by side
    assert picture.shape == (4, 10, 3) and picture[:, :5].max() == 0 and picture[:, 5:].min() == 255


def test_tiles(tmp_path):
    red, blue = np.full((8, 12, 3), (255, 0, 0), np.uint8), np.full((8, 12, 3), (0, 0, 255), np.uint8)
    out = draw_tiles([red, blue, red], ["a", "b", "c"], 2, tmp_path / "new/tiles.png", "three")
    with Image.open(out) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    height, width = pixels.shape[:2]
    for place, wanted in (((0, 0), (255, 0, 0)), ((0, 1), (0, 0, 255)), ((1, 0), (255, 0, 0))):
        part = pixels[place[0] * height // 2 :, place[1] * width // 2 :][: height // 2, : width // 2]
        assert (part == wanted).all(-1).mean() > 0.3, place
    assert (pixels[height // 2 :, width // 2 :] == (255, 255, 255)).all(-1).mean() > 0.9  # nothing there
