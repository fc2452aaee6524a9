import json

import pytest

from .load import load_tool

compare = load_tool("compare_baselines")


def fake_run(run, work_dir):
    base = {"z": {"z/z": 90.0, "z/SO3": 40.0}, "SO3": {"SO3/SO3": 70.0}}[run["train_rotation"]]
    fake_run.calls.append((run["network"], run["train_rotation"], run["seed"]))
    return {
        "parameters": 10,
        "accuracy": {protocol: value + run["seed"] for protocol, value in base.items()},
        "train_seconds": 3.0,
        "test_seconds": 1.0,
    }


def test_resumes_and_prints_mean_and_spread(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "train_and_test", fake_run)
    argv = ["--out", str(tmp_path / "out.json"), "--networks", "DGCNN", "--seeds"]
    fake_run.calls = []
    compare.main([*argv, "0"])
    assert fake_run.calls == [("DGCNN", "z", 0), ("DGCNN", "SO3", 0)]
    compare.main([*argv, "0", "2"])
    assert fake_run.calls[2:] == [("DGCNN", "z", 2), ("DGCNN", "SO3", 2)]
    row = " ".join(capsys.readouterr().out.splitlines()[-1].split())
    assert row == "DGCNN 10 91.00 +- 1.41 41.00 +- 1.41 71.00 +- 1.41 2 4"
    compare.main([*argv, "0", "--epochs", "3"])  # another budget is another table
    assert len(fake_run.calls) == 6
    assert len(json.loads((tmp_path / "out.json").read_text())) == 6


@pytest.mark.parametrize("name", compare.NETWORKS)
@pytest.mark.parametrize("epochs", [1, 8, 30])
def test_budget(name, epochs, tmp_path):
    run = {"network": name, "train_rotation": "SO3", "seed": 2, "epochs": epochs, "points": 256}
    cfg = compare.make_config(run, tmp_path)
    pipeline = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert pipeline["RandomRotate"].mode == "so3" and pipeline["SamplePoints"].num == 256
    assert cfg.test_dataloader.dataset.pipeline[0].num == 256 and cfg.train_dataloader.dataset.seed == 2
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_epochs == epochs
    assert all(scheduler.end > scheduler.begin for scheduler in cfg.param_scheduler)
    assert cfg.param_scheduler[-1].T_max == epochs - cfg.param_scheduler[-1].begin


@pytest.mark.parametrize("option", ["--epochs", "--points", "--rotations"])
def test_bad_budget(option, capsys):
    with pytest.raises(SystemExit):
        compare.main([option, "0"])
    assert "must be at least 1" in capsys.readouterr().err
