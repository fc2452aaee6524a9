"""A run that fits its score, the classes that it knows, tests of them by commands, bad requests."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from dense.classification.comparison import OpenSetComparison
from dense.classification.datasets import LooseImages, OpenSetFolder
from dense.classification.model import ImageClassifier
from dense.classification.open_set_model import FitOpenSet, OpenSetClassifier, open_set_loaders
from dense.classification.visualization import draw_open_set
from pointsuite.engine import command
from pointsuite.engine.comparison import run_comparison
from pointsuite.engine.errors import UsageError
from tests.tools.load import load_tool

from .toy import REPOSITORY, ToyNet

LEVELS = {"a": 20, "b": 80, "c": 140, "d": 190, "e": 240}
FOLDERS = """
data = dict(type="OpenSetFolder", data_root="data", num_known=3, num_surrogate=1)
steps = [dict(type="LoadImage"), dict(type="PackImage")]
"""
CONFIG = f"""
_base_ = "{REPOSITORY}/configs/_base_/default_runtime.py"
default_scope = "dense"
custom_imports = dict(imports=["tests.dense.classification.toy"])
{FOLDERS}
model = dict(type="OpenSetClassifier", backbone=dict(type="ToyNet"), num_classes=3)
train_dataloader = dict(
    batch_size=6,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(**data, split="train", share=(0, 0.8), pipeline=steps),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**data, split="test", part="test", test_mode=True, pipeline=steps),
)
test_evaluator = dict(type="OpenSetMetric")
test_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=3)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.3, momentum=0.9))
custom_hooks = [dict(type="FitOpenSet")]
open_set = dict(
    known=dict(**data, split="test"),
    unknown=dict(others=dict(**data, split="test", part="unknown")),
    validation=dict(**data, split="train", share=(0.8, 1)),
    surrogate=dict(**data, split="train", share=(0.8, 1), part="surrogate"),
)
visualizer = None
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for name, level in LEVELS.items():
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(level + rng.normal(0, 8, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / f"data/{split}/{name}/{i}.png")
    (tmp_path / "open.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------------------------- classes


def test_classes_are_drawn(project):
    def labels(**options):
        data = OpenSetFolder("data", "train", 3, 1, **options)
        infos = [data.get_data_info(i) for i in range(len(data))]
        return data, {info["img_path"].split("/")[-2]: info["gt_label"] for info in infos}

    known, found = labels(share=(0, 0.8))
    assert len(known) == 24 and found == {name: i for i, name in enumerate(known.metainfo["classes"])}
    held_out, _ = labels(share=(0.8, 1))
    paths = {data.get_data_info(i)["img_path"] for data in (known, held_out) for i in range(len(data))}
    assert len(held_out) == 6 and len(paths) == 30
    _, surrogate = labels(part="surrogate")
    unknown, others = labels(part="unknown")
    assert set(surrogate.values()) == set(others.values()) == {-1}
    assert sorted([*found, *surrogate, *others]) == list(LEVELS)
    assert unknown.metainfo["classes"] == known.metainfo["classes"]
    _, both = labels(part="test")
    assert both == {**found, **others}
    assert len({tuple(labels(class_seed=seed)[1]) for seed in range(6)}) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "all"}, "part must be one of .*, found 'all'"),
        ({"share": (0.5, 0.5)}, r"share must be two rising numbers in 0..1, found \(0.5, 0.5\)"),
        ({"num_known": 0}, "num_known of at least 1"),
        ({"num_known": 5, "part": "unknown"}, "found 5 classes of which none is unknown, 5 are known or"),
    ],
)
def test_bad_classes(project, options, message):
    with pytest.raises(ValueError, match=message):
        OpenSetFolder("data", "train", **options)


def test_loose_images(project):
    data = LooseImages("data/test")
    assert len(data) == 20 and data.get_data_info(7)["gt_label"] == -1
    with pytest.raises(FileNotFoundError, match="nowhere: found no image"):
        LooseImages("nowhere")


# ---------------------------------------------------------------------------------------------------- runs


def test_a_run_fits_and_saves_its_score_and_is_told_apart(project, capsys):
    runner = command.build_runner(load())
    runner.train()
    model = runner.model
    assert model.fitted and torch.equal(model.known_score.weight, model.head.fc.weight)
    saved = torch.load(project / "run/epoch_3.pth", weights_only=True)["state_dict"]
    assert torch.equal(saved["known_score.mean"], model.known_score.mean)
    assert saved["known_score.count"].sum() > 10
    found = runner.test()
    assert found["open_set/accuracy"] > 90
    samples = model(torch.randn(2, 3, 16, 16), mode="predict")
    assert samples[0].known_score.shape == ()
    model.threshold = samples[0].known_score.item() + 1
    assert model(torch.randn(2, 3, 16, 16), mode="predict")[0].pred_label in (-1, 0, 1, 2)

    main = load_tool("analysis/open_set").main
    main(["open.py", "run/epoch_3.pth", "--work-dir", "out", "--unknown", "data/test/e"])
    said = capsys.readouterr().out
    assert "12 known and 4 unknown samples (others), percent" in said and "costarr, no logit" in said
    report = json.loads((project / "out/open_set.json").read_text())
    assert report["others"]["costarr"]["accuracy"] == pytest.approx(found["open_set/accuracy"])
    assert report["others"]["costarr"]["auroc"] == pytest.approx(found["open_set/auroc"])
    assert "oosa" in report["others"]["msp"] and report["samples"] == {"known": 12, "others": 4, "e": 4}
    for name in ("others", "e"):
        assert (project / f"out/open_set_{name}.png").stat().st_size > 10_000


def load(**changes):
    cfg = command.read_config("open.py", changes, 0)
    cfg.work_dir = "run"
    return cfg


def test_what_was_not_fitted_is_before_its_test(project):
    runner = command.build_runner(load())
    assert not runner.model.fitted
    assert "open_set/fpr95" in runner.test()
    assert runner.model.fitted


def test_comparison_draws_classes_by_seed(project):
    options = {"train_cfg.max_epochs": 1}
    runs = run_comparison(OpenSetComparison(), ["open.py"], [3], "runs.json", options=options)
    assert {"accuracy", "costarr/auroc", "ghost/oosa", "msp/fpr95"} <= runs[0].metrics.keys()
    seeds = []
    for seed in (0, 3):
        cfg = Config.fromfile("open.py")
        cfg.randomness = {"seed": seed}
        OpenSetComparison().adapt(cfg, "")
        sets = [cfg.train_dataloader.dataset, cfg.open_set.unknown.others, cfg.open_set.surrogate]
        seeds.append({part.class_seed for part in sets})
    assert seeds == [{0}, {3}]


def test_bad_requests(project):
    runner = command.build_runner(load())
    runner.cfg.open_set = {"validation": runner.cfg.open_set.validation, "unknown": {}}
    with pytest.raises(UsageError, match="no set of unknown images, wanted open_set.unknown"):
        open_set_loaders(runner)
    with pytest.raises(UsageError, match=r"found one of open_set.validation and open_set.surrogate"):
        open_set_loaders(runner, {"e": "data/test/e"})
    runner.model = ImageClassifier({"type": "ToyNet"}, num_classes=3)
    with pytest.raises(ValueError, match="FitOpenSet wants an OpenSetClassifier, found ImageClassifier"):
        FitOpenSet().before_run(runner)
    with pytest.raises(ValueError, match="score must be one of msp, .*, found 'odin'"):
        OpenSetClassifier(ToyNet(), num_classes=3, known_score={"type": "odin"})
    with pytest.raises(ValueError, match="found no curve to draw"):
        draw_open_set({}, "a.png")
