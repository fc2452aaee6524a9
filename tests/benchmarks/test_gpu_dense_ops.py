"""The script runs to its end on a CPU at small sizes, so that it does not fail on the first GPU it meets."""

import json
import sys

import pytest
import torch

from tests.tools.load import BENCHMARKS, load_tool

pytest.importorskip("triton")


@pytest.fixture
def script():
    return load_tool("gpu_dense_ops", BENCHMARKS)


def test_without_a_gpu(script, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="wants an NVIDIA GPU, found none"):
        script.main([])


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
    script.main(["--out", str(tmp_path)])
    assert capsys.readouterr().out == (tmp_path / "gpu_dense_ops.txt").read_text()
    report = json.loads((tmp_path / "gpu_dense_ops.json").read_text())
    assert report["command"].startswith("python benchmarks/gpu_dense_ops.py --out")
    rows = report["rows"]
    assert len(rows) == 16
    for row in rows:
        assert row["equals_cpu"] < (1e-6 if "float32" in row["case"] else 1e-2), row
        assert row["ratio"] == 1 and row["bytes"] > 0 and row["operations"] > 0, row
