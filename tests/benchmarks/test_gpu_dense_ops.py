"""The script runs to its end on a CPU at small sizes, so that it does not fail on the first GPU it meets."""

import importlib
import json
import pathlib
import sys

import pytest
import torch

pytest.importorskip("triton")
FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", ["gpu_dense_ops.py"])
    return importlib.import_module("gpu_dense_ops")


def test_help(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_dense_ops.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 0 and "--batch" in capsys.readouterr().out


def test_without_a_gpu(script, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="wants an NVIDIA GPU, found none"):
        script.main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs Triton's interpreter")
def test_report(script, monkeypatch, tmp_path, capsys):
    small = {"MAPS": [(3, 4), (2, 2)], "PIXELS": 16, "QUERIES": (3,), "HEADS": 2, "WIDTH": 4, "POINTS": 2}
    small |= {"BOXES": 2, "BINS": (1, 2), "CHANNELS": 3, "BOX_MAP": (7, 9), "BOX_SIDES": (1, 3)}
    small |= {"DEVICE": "cpu"}
    for name, value in small.items():
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "none")
    monkeypatch.setattr(script, "time", lambda function: (function(), 2.0)[1])
    monkeypatch.setattr(sys.modules["gpu_ops"], "add_floors", lambda rows: None)
    monkeypatch.setattr(sys, "argv", ["gpu_dense_ops.py", "--out", str(tmp_path)])
    script.main()
    assert capsys.readouterr().out == (tmp_path / "gpu_dense_ops.txt").read_text()
    rows = json.loads((tmp_path / "gpu_dense_ops.json").read_text())["rows"]
    assert len(rows) == 16
    for row in rows:
        assert row["equals_cpu"] < (1e-6 if "float32" in row["case"] else 1e-2), row
        assert row["ratio"] == 1 and row["bytes"] > 0 and row["operations"] > 0, row
