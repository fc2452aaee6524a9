"""Runs by the command lines: they learn, can be tested, drawn and continued; the recipes take steps."""

import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from dense.video.scoring import load_scores
from pointsuite.engine import command
from pointsuite.engine.checkpoint import load_checkpoint
from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.tools.load import load_tool

from .toy import ABNORMAL, LENGTH, REPOSITORY, write_project

train, test = load_tool("train"), load_tool("test")
CONFIGS = REPOSITORY / "configs/vad_hybrid"


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_project(tmp_path)


def read_results(folder):
    return json.loads(next(Path(folder).glob("*/*.json")).read_text())


def test_train_test_draw_and_resume(config):
    train.main([config, "--work-dir", "whole", "--cfg-options", "experiment_name=video_whole"])
    options = ["--show-dir", "pictures", "--cfg-options", "experiment_name=video_tested"]
    test.main([config, "whole", "--work-dir", "tested", *options])
    results = read_results("tested")
    assert results["frame/auc_micro_raw"] > 90 and results["frame/auc_macro"] > 90
    scores = load_scores("scores.json")
    assert scores["01"]["label"].tolist() == [int(i in ABNORMAL) for i in range(LENGTH)]
    assert scores["01"]["score"].max() == 1 and len(scores["02"]["psnr"]) == LENGTH
    drawn = {path.name for path in Path("pictures/vis_data/vis_video").iterdir()}
    assert drawn == {"01.mp4", "01.png", "02.mp4", "02.png"}
    report = Path("tested/report.html").read_text()
    assert report.count("<svg") == 2 and report.count('class="span"') >= 1  # errors over time, and the truth
    notes = re.findall(r'"title">(\d+)</span><span class="note">(frame \d+)', report)
    assert len(set(notes)) == len(notes) == report.count("<img ") > 10  # each frame once

    resume = ["--resume", "whole/epoch_1.pth", "--cfg-options", "experiment_name=video_parts"]
    train.main([config, "--work-dir", "parts", *resume])
    whole, parts = (load_checkpoint(f"{run}/epoch_2.pth")["state_dict"] for run in ("whole", "parts"))
    assert all(value.equal(parts[key]) for key, value in whole.items())
    assert not torch.equal(
        whole["network.conv.weight"],
        load_checkpoint("whole/epoch_1.pth")["state_dict"]["network.conv.weight"],
    )


@pytest.mark.parametrize("name", ["copy-previous_ped2", "mean-of-neighbours_ped2"])
def test_baselines_need_no_checkpoint(name, config):
    options = ["test_dataloader.dataset.size=16", "test_dataloader.num_workers=0"]
    options += [
        "test_dataloader.persistent_workers=False",
        "test_dataloader.dataset.offsets=[0,1,2,3,4,5,6,7,8]",
    ]
    options += ["data_root=data", f"experiment_name=video_{name}"]
    test.main([str(CONFIGS / f"{name}.py"), "--work-dir", "tested", "--cfg-options", *options])
    assert read_results("tested")["frame/auc_macro"] > 90


def test_a_damaged_frame_is_one_line(config):
    Path("data/testing/frames/01/005.png").write_bytes(b"damaged")
    with pytest.raises(SystemExit) as stop:
        command.run(
            lambda: test.main(
                [config, "--weights", "random", "--cfg-options", "experiment_name=video_damaged"]
            )
        )
    assert "error: data/testing/frames/01/005.png: not an image that can be read" in stop.value.code
    assert "\n" not in stop.value.code


def test_published_recipe():
    cfg = Config.fromfile(CONFIGS / "vad-hybrid_shanghaitech.py")
    assert cfg.model.network.in_channels == 3 and cfg.train_dataloader.dataset.color == "rgb"
    assert cfg.train_dataloader.batch_size == 1 and cfg.train_cfg.max_epochs == 20
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.betas, optimizer.eps) == ("Adam", 1e-3, (0.9, 0.98), 1e-9)
    assert (cfg.param_scheduler.factor, cfg.param_scheduler.patience) == (0.5, 2)
    assert cfg.default_hooks.checkpoint.save_best == cfg.param_scheduler.monitor == "frame/loss"
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert loader.dataset.split == "train" and loader.dataset.hold_out == 0.1
    assert cfg.test_dataloader.dataset.get("hold_out", 0) == 0
