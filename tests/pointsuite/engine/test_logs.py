import pytest

from pointsuite.engine.errors import UsageError
from pointsuite.engine.logs import format_logs, read_log

from .logs import write_log, write_resumed_run


@pytest.fixture
def run(tmp_path):
    return write_resumed_run(tmp_path / "run")


def test_resumed_run_is_put_together(run):
    log = read_log(run)
    assert log.curve("loss") == ([10, 20, 30, 60], [9.0, 8.0, 1.0, 1.0], "iteration")
    assert log.curve("top1") == ([1, 2], [50.0, 75.0], "validation")
    assert log.curve("nothing") == ([], [], "") and log.names() == ["loss", "top1"]


def test_told_by_hand(run):
    said = format_logs({"a": read_log(run)}, ["loss", "top1", "nothing"]).splitlines()
    assert said[0] == "a: 60 iterations, 2 validations" and len(said) == 4
    assert "median 0.3000, mean 0.3000, standard deviation 0.1000, 0.2000 to 0.4000; 16.7 %" in said[1]
    assert said[2] == "  loss: 9 at iteration 10, 1 at 60, least 1 at 30, most 9 at 10"
    assert said[3].startswith("  top1: 50 at validation 1, 75 at 2")


def test_refusals(tmp_path):
    with pytest.raises(UsageError, match="found no .*scalars.json"):
        read_log(tmp_path)
    empty = write_log(tmp_path / "empty", "a", [])
    with pytest.raises(UsageError, match="the log is empty"):
        read_log(empty)
    empty.write_text('{"lr": 1, "step": 3}\nno json\n')
    with pytest.raises(UsageError, match=r"scalars.json, line 2: not a line"):
        read_log(empty)
    with pytest.raises(FileNotFoundError):
        read_log(tmp_path / "none.json")
