import re
from pathlib import Path

import pytest

from pointsuite.engine.errors import UsageError
from tests.pointsuite.engine.test_schedules import ITERATIONS
from tests.tools.load import load_tool

tool = load_tool("analysis/plot_schedule")


def test_picture_and_summary(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run.py").write_text(ITERATIONS)
    tool.main(["run.py"])
    printed = capsys.readouterr().out
    assert re.search(r"40 iterations: learning rate 1 at first, 1 at most \(after 0\), 0.1 at last", printed)
    assert Path("work_dirs/run/schedule.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in Path("work_dirs/run").iterdir()} == {"schedule.png"}  # no logs of a run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iters-per-epoch", "0"], "--iters-per-epoch is 0"),
        (["--cfg-options", "train_cfg=None"], "has no 'train_cfg'"),
        (["--cfg-options", "optim_wrapper.optimizer=None"], "has no single optimizer"),
    ],
)
def test_refusals(tmp_path, options, message):
    (tmp_path / "run.py").write_text(ITERATIONS)
    with pytest.raises(UsageError, match=message):
        tool.main([str(tmp_path / "run.py"), *options])
