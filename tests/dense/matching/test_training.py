"""A run by the command lines: it trains, it can be tested and drawn, it continues as if never stopped."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.visualization import Visualizer
from PIL import Image

from dense.base.drawing import DrawingHook, to_picture
from pointsuite.engine import command
from pointsuite.engine.checkpoint import load_checkpoint
from pointsuite.engine.errors import UsageError
from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.tools.load import load_tool

from .toy import write_project

train, test, browse = load_tool("train"), load_tool("test"), load_tool("analysis/browse_dataset")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_project(tmp_path)


def weights(path):
    return load_checkpoint(path)["state_dict"]


def options(name, *others):
    return ["--work-dir", name, "--cfg-options", f"experiment_name={name}", *others]


def test_train_test_draw_and_resume(config):
    train.main([config, *options("whole")])
    test.main([config, "whole", "--show-dir", "pictures", *options("tested")])
    results = json.loads(next(Path("tested").glob("*/*.json")).read_text())
    assert set(results) >= {"pck/0.05", "pck/0.1", "pck/0.15"}
    assert 0 <= results["pck/0.05"] <= results["pck/0.15"] <= 100
    pictures = sorted(Path("pictures").rglob("*.png"))
    assert len(pictures) == 12 and pictures[3].name.startswith("00003")
    height, width, _ = np.asarray(Image.open(pictures[0])).shape
    assert height > 64 and width == 192  # headings and a legend
    report = Path("tested/report.html").read_text()
    assert "pck/0.05" in report and report.count("<img ") == 12  # the same pictures

    loader = ["train_dataloader.num_workers=1", "train_dataloader.persistent_workers=True"]
    train.main([config, "--resume", "whole/epoch_2.pth", *options("parts", *loader)])
    whole, parts = weights("whole/epoch_3.pth"), weights("parts/epoch_3.pth")
    assert all(value.equal(parts[key]) for key, value in whole.items())
    assert not whole["network.fine.weight"].equal(weights("whole/epoch_1.pth")["network.fine.weight"])


def test_a_baseline_needs_no_checkpoint(config):
    change = ["model.network.type=NoMotion", "model.network.grid=4", "visualizer=None"]
    test.main([config, *options("still", *change)])
    results = json.loads(next(Path("still").glob("*/*.json")).read_text())
    assert 0 <= results["pck/0.1"] < 100


def test_browse(config):
    for split in ("train", "test"):
        browse.main([config, "--split", split, "--num", "2", "--out", f"{split}.png"])
        assert np.asarray(Image.open(f"{split}.png")).std() > 10


def test_errors_are_one_line(config):
    def stop(*argv):
        with pytest.raises(SystemExit) as stopped:
            command.run(lambda: test.main([config, *argv]))
        assert "\n" not in stopped.value.code
        return stopped.value.code

    Path("willow/cup/0.png").write_bytes(b"no picture")
    assert "willow/cup/0.png: not an image that can be read" in stop(
        "--weights", "random", *options("damaged")
    )
    assert "toy.py: found no weights for 3,480 parameters" in stop(*options("none"))
    assert "no-such.pth: no such checkpoint" in stop("no-such.pth", *options("absent"))
    assert "--protocols and --parts want a checkpoint" in stop("--parts", *options("parts"))


def test_images_of_a_sample_lie_side_by_side():
    pair = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    picture = to_picture(pair)
    assert picture.shape == (4, 10, 3)
    np.testing.assert_array_equal(picture[:, 5:], pair[1].permute(1, 2, 0))
    np.testing.assert_array_equal(to_picture(pair[0]), pair[0].permute(1, 2, 0))


def test_the_hook_wants_a_visualizer_that_draws():
    runner = SimpleNamespace(visualizer=Visualizer(name="plain"))
    with pytest.raises(UsageError, match="visualizer is Visualizer, which draws no samples"):
        DrawingHook().before_test(runner)
