import pytest
from mmengine.config import Config

from pointsuite.engine.errors import UsageError

from .load import load_tool
from .tiny import CONFIG, OPTIONS

tool = load_tool("print_config")


def test_prints_and_writes_what_a_run_sees(tmp_path, capsys):
    tool.main([CONFIG, *OPTIONS, "max_epochs=3", "--out", str(tmp_path / "a/whole.py")])
    printed = capsys.readouterr().out
    assert "embed_channels=8" in printed and "max_epochs = 3" in printed
    whole = Config.fromfile(tmp_path / "a/whole.py")
    assert whole.model.network.channels == (8, 16, 16) and whole.default_scope == "pointsuite"
    (tmp_path / "printed.py").write_text(printed)
    assert Config.fromfile(tmp_path / "printed.py").to_dict() == whole.to_dict()


def test_refuses_another_kind_of_file(tmp_path):
    with pytest.raises(UsageError, match=r"whole.txt: found '.txt', wanted .py"):
        tool.main([CONFIG, "--out", str(tmp_path / "whole.txt")])
