import pytest

from pointsuite.engine.errors import UsageError
from tests.pointsuite.engine.logs import train_line, write_log, write_resumed_run
from tests.tools.load import load_tool

tool = load_tool("analysis/analyze_logs")


@pytest.fixture
def run(tmp_path):
    return write_resumed_run(tmp_path / "run")


def test_table_and_picture(run, tmp_path, capsys):
    other = write_log(tmp_path / "other", "20260101_000000", [train_line(5, 3.0, loss_cls=1.0)])
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


def test_unknown_key(run):
    with pytest.raises(UsageError, match="--keys 'accuracy': no log has it, there are loss, top1"):
        tool.main([str(run), "--keys", "accuracy"])
