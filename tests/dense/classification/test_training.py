"""A training run by the command lines: it learns, it can be tested, it continues as if never stopped."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from pointsuite.engine import command
from pointsuite.engine.checkpoint import CheckpointError, load_checkpoint
from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.tools.load import load_tool

from .toy import write_project

train, test = load_tool("train"), load_tool("test")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_project(tmp_path)


def weights(path):
    return load_checkpoint(path)["state_dict"]


def test_train_test_and_resume(config):
    train.main([config, "--work-dir", "whole", "--cfg-options", "experiment_name=whole"])
    test.main([config, "whole", "--work-dir", "tested", "--cfg-options", "experiment_name=tested"])
    results = json.loads(next(Path("tested").glob("*/*.json")).read_text())
    assert results["accuracy/top1"] == 100.0 and results["accuracy/top2"] == 100.0

    options = ["--cfg-options", "train_dataloader.num_workers=1", "train_dataloader.persistent_workers=True"]
    resume = ["--resume", "whole/epoch_2.pth"]
    train.main([config, "--work-dir", "parts", *resume, *options, "experiment_name=parts"])
    whole, parts = weights("whole/epoch_4.pth"), weights("parts/epoch_4.pth")
    assert all(value.equal(parts[key]) for key, value in whole.items())
    assert not torch.equal(whole["head.fc.weight"], weights("whole/epoch_3.pth")["head.fc.weight"])


def test_fine_tuning_for_other_classes(config):
    """The last layer for another number of classes is left as initialised, on request, and named."""
    train.main([config, "--work-dir", "three", "--cfg-options", "experiment_name=three"])
    for split in ("train", "val"):
        shutil.rmtree(f"data/{split}/green")
    text = "_base_ = 'toy.py'\nload_from = 'three/epoch_4.pth'\nmodel = dict(num_classes=2)\n"
    Path("two.py").write_text(text + "train_cfg = dict(max_epochs=1)\nexperiment_name = 'refused'\n")
    with pytest.raises(
        CheckpointError, match=r"head.fc.weight \(3, 8\), wanted \(2, 8\).*new_classes=True"
    ) as caught:
        train.main(["two.py", "--work-dir", "two"])
    assert "Published" not in str(caught.value)

    changed = ["new_classes=True", "experiment_name=two", "optim_wrapper.optimizer.lr=0.0"]
    train.main(["two.py", "--work-dir", "two", "--cfg-options", *changed])
    said = "".join(file.read_text() for file in Path("two").glob("*/*.log"))
    assert "three/epoch_4.pth: left as initialised: head.fc.weight, head.fc.bias" in said
    before, after = weights("three/epoch_4.pth"), weights("two/epoch_1.pth")
    assert after["head.fc.weight"].shape == (2, 8) and after["head.fc.weight"].any()
    trained = [
        key
        for key in before
        if key.startswith("backbone.") and "running" not in key and "num_batches" not in key
    ]
    assert trained and all(torch.equal(before[key], after[key]) for key in trained)
    # a test does not begin training: weights have to fit
    with pytest.raises(CheckpointError, match=r"head.fc.weight \(3, 8\)"):
        test.main(["two.py", "three", "--cfg-options", "new_classes=True", "experiment_name=tested"])


def test_a_damaged_image_is_one_line(config, capsys):
    Image.new("RGB", (30, 30)).save("data/train/red/0.jpg")
    with open("data/train/red/0.jpg", "r+b") as file:
        file.truncate(300)
    with pytest.raises(SystemExit) as stop:
        command.run(lambda: train.main([config, "--cfg-options", "experiment_name=damaged"]))
    assert "error: data/train/red/0.jpg: not an image that can be read" in stop.value.code
    assert "\n" not in stop.value.code
