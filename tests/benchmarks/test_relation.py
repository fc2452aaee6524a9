import pytest

pytest.importorskip("mmdet")

from tests.tools.load import BENCHMARKS, load_tool

from .reports import read_report

tool = load_tool("relation", BENCHMARKS)


@pytest.mark.slow
def test_report(tmp_path, capsys):
    tool.main(["--queries", "20", "--size", "64", "96", "--seconds", "0", "--out", str(tmp_path)])
    report, text = read_report(tmp_path, "relation", capsys)
    rows = {(row["mode"], row["network"]): row for row in report["rows"]}
    assert len(rows) == 6 and text.count("\n") == 10
    for mode in ("evaluation", "training step"):
        plain = rows[mode, "DINO"]
        assert plain["time_ratio"] == plain["memory_ratio"] == 1
        for name in ("DINO + relation", "Relation-DETR"):
            row = rows[mode, name]
            assert row["memory_ratio"] == row["peak_bytes"] / plain["peak_bytes"] >= 1
            assert row["time_ratio"] == row["ms"] / plain["ms"]
    step, evaluation = rows["training step", "DINO"], rows["evaluation", "DINO"]
    assert step["peak_bytes"] > evaluation["peak_bytes"]  # what is kept for the gradient was counted
