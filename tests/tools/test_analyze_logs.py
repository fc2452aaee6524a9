import json

import pytest

from pointsuite.engine.command import UsageError

from .load import load_tool

tool = load_tool("analyze_logs")


def train_line(step, loss, **kwargs):
    line = {"lr": 0.1, "data_time": 0.05, "loss": loss, "time": 0.2, "epoch": 1, "iter": step, "step": step}
    return {**line, **kwargs}


def write(run, stamp, lines):
    folder = run / stamp / "vis_data"
    folder.mkdir(parents=True)
    (folder / "scalars.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "scalars.json"


@pytest.fixture
def run(tmp_path):
    """A run that was stopped after iteration 40 and resumed from 20."""
    old = [train_line(step, 10 - step / 10) for step in (10, 20, 30, 40)]
    old.insert(2, {"top1": 50.0, "time": 0.1, "data_time": 0.0, "step": 1})
    write(tmp_path / "run", "20260101_000000", old)
    new = [train_line(step, 1.0, time=0.4) for step in (30, 60)]
    new.append({"top1": 75.0, "time": 0.1, "data_time": 0.0, "step": 2})
    write(tmp_path / "run", "20260102_000000", new)
    return tmp_path / "run"


def test_resumed_run_is_put_together(run):
    log = tool.read_log(run)
    assert log.curve("loss") == ([10, 20, 30, 60], [9.0, 8.0, 1.0, 1.0], "iteration")
    assert log.curve("top1") == ([1, 2], [50.0, 75.0], "validation")
    assert log.curve("nothing") == ([], [], "") and log.names() == ["loss", "top1"]


def test_table_and_picture(run, tmp_path, capsys):
    other = write(tmp_path / "other", "20260101_000000", [train_line(5, 3.0, loss_cls=1.0)])
    out = tmp_path / "curves.png"
    tool.main([str(run), str(other), "--out", str(out)])
    printed = capsys.readouterr().out
    assert f"{run}: 60 iterations, 2 validations" in printed
    assert (
        "median 0.3000, mean 0.3000, standard deviation 0.1000, 0.2000 to 0.4000; 16.7 % waiting" in printed
    )
    assert "loss: 9 at iteration 10, 1 at 60, least 1 at 30, most 9 at 10" in printed
    assert "top1: 50 at validation 1, 75 at 2" in printed
    assert f"{other}: 5 iterations, 0 validations" in printed and "loss_cls: 1 at iteration 5" in printed
    assert out.read_bytes().startswith(b"\x89PNG")
    tool.main([str(run), "--keys", "lr"])
    assert "lr: 0.1 at iteration 10" in capsys.readouterr().out


def test_refusals(run, tmp_path):
    with pytest.raises(UsageError, match="--keys 'accuracy': no log has it, there are loss, top1"):
        tool.main([str(run), "--keys", "accuracy"])
    with pytest.raises(UsageError, match="found no .*scalars.json"):
        tool.main([str(tmp_path)])
    empty = write(tmp_path / "empty", "a", [])
    with pytest.raises(UsageError, match="the log is empty"):
        tool.main([str(empty)])
    empty.write_text('{"lr": 1, "step": 3}\nno json\n')
    with pytest.raises(UsageError, match=r"scalars.json, line 2: not a line"):
        tool.main([str(empty)])
    with pytest.raises(FileNotFoundError):
        tool.main([str(tmp_path / "none.json")])
