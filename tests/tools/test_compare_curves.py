import json

import pytest

from pointsuite.engine.command import UsageError

from .load import load_tool

compare = load_tool("compare_curves")


def fake_train(cfg, key):
    fake_train.calls.append((cfg.experiment_name, cfg.data_root))
    start = {"a": 0.0, "b": 0.5}[cfg.experiment_name[0]] + 0.1 * cfg.randomness.seed
    return {"parameters": 10, key: [(5, start), (10, start + 0.2)], "seconds": 4.0}


@pytest.fixture
def configs(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.py").write_text(
            "model = dict()\ndata_root = 'data'\nrandomness = dict(seed=0)\n"
        )
    return [str(tmp_path / "a.py"), str(tmp_path / "b.py")]


def test_resumes_and_prints_mean_and_spread(configs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "train", fake_train)
    fake_train.calls = []
    argv = [*configs, "--key", "score", "--out", str(tmp_path / "out.json"), "--seeds"]
    compare.main([*argv, "0", "--cfg-options", "data_root=one"])
    assert fake_train.calls == [("a_seed0", "one"), ("b_seed0", "one")]
    compare.main([*argv, "0", "1", "--cfg-options", "data_root=two"])  # where the data lie does not matter
    assert fake_train.calls[2:] == [("a_seed1", "two"), ("b_seed1", "two")]
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert lines[0].split() == ["5", "0.050", "+-", "0.071", "0.550", "+-", "0.071"]
    assert lines[1].split() == ["10", "0.250", "+-", "0.071", "0.750", "+-", "0.071"]
    assert lines[2].split() == ["seeds", "2", "2"] and lines[3].split() == ["seconds", "4", "4"]
    assert lines[4] == str(tmp_path / "out.png") and (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"
    assert len(json.loads((tmp_path / "out.json").read_text())) == 4
    compare.main([*argv, "0", "--cfg-options", "train_cfg.max_iters=3"])  # another schedule is another run
    assert len(fake_train.calls) == 6


def test_steps_must_agree():
    runs = [{"config": "a", "score": [(5, 0.1)]}, {"config": "a", "score": [(6, 0.1)]}]
    with pytest.raises(UsageError, match="a: its seeds were validated at different iterations"):
        compare.group(runs, "score")
