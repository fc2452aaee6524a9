"""A run's weights, stripped, with a card."""

import json

import pytest
import torch
from mmengine.config import Config

import pointsuite
from pointsuite.engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, sha256
from pointsuite.engine.command import CONFIGS
from pointsuite.engine.errors import UsageError
from pointsuite.engine.pretrained import read_card
from pointsuite.engine.publishing import describe_training, find_origin, sample_indices, write_weights
from pointsuite.engine.runner import Runner
from tests.pointsuite.engine.tiny import make_config

from .load import load_tool

publish = load_tool("publish").main
TEXTS = ["--data", "two classes", "--data-licence", "CC-BY-SA-4.0", "--licence", "MIT"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The work dir of a run with averaged weights."""
    folder = tmp_path_factory.mktemp("run")
    options = {"train_cfg.max_epochs": 1, "train_dataloader.dataset.indices": 64}
    options |= {"custom_hooks": [{"type": "EMAHook", "momentum": 0.5}]}
    Runner.from_cfg(make_config(folder, **options)).train()
    return folder


@pytest.fixture(scope="module")
def published(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("published")
    publish([str(run), "tiny", *TEXTS, "--out", str(out), "--samples", "10"])
    (path,) = out.glob("*.json")
    return path


def test_round_trip(run, published):
    card = read_card(published)
    assert card.path.name == f"tiny-{sha256(card.path)[:8]}.safetensors" and card.sha256 == sha256(card.path)
    whole, stripped = load_checkpoint(run / "epoch_1.pth"), load_checkpoint(card.path)
    assert "optimizer" in whole and set(stripped) == {"state_dict", "meta"}
    averaged, last = whole["state_dict"], whole["ema_state_dict"]
    found = stripped["state_dict"]
    assert all(torch.equal(value, averaged[key]) for key, value in found.items())
    assert any(not torch.equal(value, last[f"module.{key}"]) for key, value in found.items())
    assert set(stripped["meta"]) == {"model", "pipeline", "dataset_meta", "seed", "epoch", "iter"}
    shapes = [f"{CONFIGS.parent / 'data/kicad/kicad.h5'}:test:{i}" for i in (210, 260)]
    ours = pointsuite.Classifier(card.path, device="cpu")(shapes)
    theirs = pointsuite.Classifier(run, device="cpu")(shapes)
    assert [one.name for one in ours] == [one.name for one in theirs] and ours[0].classes == ("dip", "so")
    assert all((a.probabilities == b.probabilities).all() for a, b in zip(ours, theirs, strict=True))


def test_card(run, published):
    card = read_card(published)
    assert (card.name, card.model, card.classes) == ("tiny", "PointCloudClassifier", ("dip", "so"))
    assert (card.seed, card.epoch, card.data, card.licence) == (0, 1, "two classes", "MIT")
    assert card.command == "python tools/train.py tiny.py --seed 0" and "commit" not in published.read_text()
    log = [json.loads(line) for path in run.glob("*/vis_data/scalars.json") for line in path.open()]
    (validated,) = [
        line for line in log if "overall_accuracy" in line
    ]  # of the same data, by the same weights
    assert card.results["overall_accuracy"] == pytest.approx(validated["overall_accuracy"])
    assert card.sampled["indices"] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90] and card.sampled["results"]


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
def test_averaged_weights_of_others(run, tmp_path, key):
    """Which keep them beside the last ones."""
    content = load_checkpoint(run / "epoch_1.pth")
    content[key] = {name: value + 1 for name, value in content["state_dict"].items()}
    save_checkpoint(content, tmp_path / "theirs.pth")
    path, _ = write_weights(tmp_path / "theirs.pth", "tiny", tmp_path)
    found = load_checkpoint(path)["state_dict"]
    assert all(torch.equal(value, content[key][name]) for name, value in found.items())


def test_published_twice_it_is_the_same_file(run, published, tmp_path):
    path, _ = write_weights(run / "epoch_1.pth", "tiny", tmp_path)
    assert path.read_bytes() == read_card(published).path.read_bytes()
    assert write_weights(run / "epoch_1.pth", "tiny", tmp_path)[0] == path
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_cannot_be_published(run, tmp_path):
    with pytest.raises(UsageError, match="name: found '../a', wanted letters, digits, _ and -"):
        write_weights(run / "epoch_1.pth", "../a", tmp_path)
    save_checkpoint({"state_dict": {"a": torch.ones(1)}}, tmp_path / "bare.pth")
    with pytest.raises(
        CheckpointError, match="bare.pth: does not say what it is of, wanted a checkpoint of a"
    ):
        write_weights(tmp_path / "bare.pth", "bare", tmp_path / "out")
    with pytest.raises(CheckpointError, match="does not fit RISurConvClassifier"):  # a name of the zoo
        publish([str(run), "risurconv_s", *TEXTS, "--out", str(tmp_path / "out"), "--no-test"])
    assert not list((tmp_path / "out").glob("*"))
    (tmp_path / "tiny-00000000.safetensors").touch()
    with pytest.raises(
        UsageError, match="has tiny-00000000.safetensors already; remove it and its card first"
    ):
        write_weights(run / "epoch_1.pth", "tiny", tmp_path)


def test_what_was_said_over_a_config(tmp_path):
    name = "risurconv/risurconv-s_kicad.py"
    cfg = Config.fromfile(CONFIGS / name)
    assert find_origin(cfg, tmp_path / "risurconv-s_kicad.py") == (name, [])
    assert find_origin(cfg, tmp_path / "mine.py") == ("mine.py", [])
    load = load_tool("publish").command.read_config
    cfg = load(
        CONFIGS / name, {"max_epochs": 5, "model.loss.label_smoothing": 0.2, "data_file": "/home/me/a.h5"}
    )
    cfg.work_dir = "/home/me/work"
    found = find_origin(cfg, tmp_path / "risurconv-s_kicad.py")
    options = ["data_file=PATH", "max_epochs=5", "model.loss.label_smoothing=0.2"]
    assert found == (name, options)
    trained = describe_training(cfg, tmp_path / "risurconv-s_kicad.py", {"seed": 3, "epoch": 4})
    wanted = f"python tools/train.py configs/{name} --seed 3 --cfg-options {' '.join(options)}"
    assert trained == (name, f"{wanted}  # as it is after epoch 4 of 5")


def test_samples_lie_evenly():
    assert sample_indices(10, 4) == [0, 2, 5, 7] and sample_indices(3, 16) == [0, 1, 2]
