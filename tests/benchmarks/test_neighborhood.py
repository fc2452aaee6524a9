import pytest

from tests.tools.load import BENCHMARKS, load_tool

from .reports import read_report

tool = load_tool("neighborhood", BENCHMARKS)


@pytest.mark.slow  # compiles the kernels
def test_report(tmp_path, capsys):
    options = ["--shape", "6", "8", "--window", "3", "--width", "4", "--batch", "2", "--seconds", "0"]
    tool.main([*options, "--out", str(tmp_path)])
    report, text = read_report(tmp_path, "neighborhood", capsys)
    rows = {(row["mode"], row["peer"]): row for row in report["rows"] if row["peer"] != "natten"}
    assert len(rows) == 8 and text.count("\n") == 1 + len(report["rows"])
    for (mode, _), row in rows.items():
        assert row["time_ratio"] == row["ms"] / rows[mode, "windows"]["ms"]
        assert row["peak_bytes"] > 0
