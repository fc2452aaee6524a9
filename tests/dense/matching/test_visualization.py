"""Pictures show what they say."""

import numpy as np
import pytest
import torch
from PIL import Image

from dense.base.captions import add_captions
from dense.matching.sample import MatchDataSample
from dense.matching.visualization import RIGHT, TRUE, WRONG, MatchVisualizer, color_wheel, draw_matches

from .toy import blobs


def test_color_wheel():
    directions = np.array([[1, 0, -1, 0, 0], [0, 1, 0, -1, 0]], np.float32)[:, None]
    picture = color_wheel(directions)
    assert picture.shape == (1, 5, 3) and picture.dtype == np.uint8
    right, down, left, up, still = picture[0].astype(int)
    assert right.tolist() == [255, 0, 0] and still.tolist() == [255, 255, 255]
    assert down[1] == 255 and down[2] == 0 and left[0] == 0 and left[2] == 255 and up[2] == 255 and up[1] == 0
    half = color_wheel(directions, longest=2.0)
    assert half[0, 0, 0] == 255 and abs(int(half[0, 0, 1]) - 128) <= 1
    assert (color_wheel(np.zeros((2, 3, 4))) == 255).all()


def test_lines_go_from_points_to_points():
    source, target = np.zeros((40, 30, 3), np.uint8), np.zeros((60, 50, 3), np.uint8)
    picture = draw_matches(source, target, np.array([[10, 20]]), np.array([[5, 20]]), [WRONG])
    assert picture.shape == (60, 80, 3)
    on = (picture == WRONG).all(-1)
    assert on[20, 10 : 30 + 6].all() and not on[:17].any() and not on[24:].any()
    assert not on[:, :8].any() and not on[:, 30 + 8 :].any()
    assert (draw_matches(source, target, np.zeros((1, 2)), np.zeros((1, 2)))[0, 0] == RIGHT).all()
    with pytest.raises(ValueError, match="zip"):
        draw_matches(source, target, np.zeros((2, 2)), np.zeros((1, 2)))


@pytest.fixture
def visualizer(tmp_path, request):
    options = {"save_dir": str(tmp_path), "vis_backends": [{"type": "LocalVisBackend"}]}
    return MatchVisualizer(name=request.node.name, least=64, **options)


def make_sample():
    sample = MatchDataSample(metainfo={"pck_base": 32.0})
    sample.source_points = torch.tensor([[8.0, 8.0], [20.0, 20.0]])
    sample.target_points = torch.tensor([[8.0, 8.0], [20.0, 20.0]])
    return sample


def count(picture, color):
    return (picture == color).all(-1).sum()


def test_predictions_are_right_or_wrong(visualizer, tmp_path, monkeypatch):
    said = []

    def note(picture, headings=(), legend=()):
        said.append(legend)
        return add_captions(picture, headings, legend)

    monkeypatch.setattr("dense.matching.visualization.add_captions", note)
    image = np.zeros((32, 64, 3), np.uint8)
    sample = make_sample()
    sample.pred_points = sample.source_points + torch.tensor([[3.1, 0.0], [0.0, 3.3]])  # the threshold is 3.2
    sample.pred_flow = torch.zeros(2, 4, 4)
    visualizer.add_datasample("00007", image, sample, step=2)
    picture = visualizer.get_image()
    strip = add_captions(picture[:0], ["source", "target", "flow"])
    assert picture.shape[0] > 64 + len(strip) and picture.shape[1:] == (3 * 64, 3)
    shown, legend = picture[len(strip) :][:64], picture[len(strip) + 64 :]
    assert count(shown, RIGHT) > 50 and count(shown, WRONG) > 50 and count(picture, TRUE) == 0
    assert (shown[:, 128:] == 255).all()
    assert count(legend, RIGHT) > 50 and count(legend, WRONG) > 50  # what the colours mean
    wanted = "found within 0.1 x 32 pixels of the truth: 1"
    assert [text for text, _ in said[-1]][:2] == [wanted, "not: 1"] and "flow" in said[-1][2][0]
    saved = np.asarray(Image.open(next(tmp_path.rglob("00007*.png"))))
    np.testing.assert_array_equal(saved, picture)


def test_truth_alone(visualizer):
    image = np.asarray(blobs((64, 32), np.random.default_rng(0)))
    visualizer.add_datasample("a", image, make_sample(), draw_pred=False)
    picture = visualizer.get_image()
    assert picture.shape[0] > 64 and picture.shape[1] == 128 and count(picture, TRUE) > 100
    visualizer.add_datasample("b", image, MatchDataSample(metainfo={"pck_base": 1.0}))
    plain = np.concatenate(
        [np.asarray(Image.fromarray(half).resize((64, 64))) for half in np.split(image, 2, 1)], 1
    )
    np.testing.assert_array_equal(visualizer.get_image(), add_captions(plain, ["source", "target"]))
