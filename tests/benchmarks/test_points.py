import json
import re

import pytest

from tests.tools.load import BENCHMARKS, load_tool

tool = load_tool("points", BENCHMARKS)


def test_quick_run_covers_every_operator_and_a_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tool, "LIBRARIES", ("scipy", "no_such_library"))
    tool.main(["--quick", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "benchmark_cpu.json").read_text())
    assert {row["op"] for row in report["ops"]} == set(tool.OPS)
    for row in report["ops"]:
        assert len(row["ms"]) >= 1 and all(value > 0 for value in row["ms"].values())
    assert {row["points"] for row in report["ops"]} == {128, 512}
    assert all(value > 0 for value in report["models"][0]["units"].values())
    assert report["command"].startswith("python benchmarks/points.py --quick")
    text = (tmp_path / "benchmark_cpu.txt").read_text()
    assert report["absent"] == ["no_such_library"] and "not installed: no_such_library\n" in text
    assert text in capsys.readouterr().out
    assert "torch cdist + topk" in text and "training step" in text
    assert (tmp_path / "benchmark_cpu.png").read_bytes().startswith(b"\x89PNG")


def test_every_exported_operator_is_timed():
    from pointsuite import ops

    helpers = {"NUM_FEATURES", "graph", "inverse_distance_weights", "weighted_normal"}
    rows = [name for name in tool.OPS if not name.startswith("knn_graph_")]  # of ops.graph, by width
    names = {"farthest_point_sample" if name == "fps" else name for name in rows}
    assert len(rows) < len(tool.OPS)
    assert set(ops.__all__) - helpers == names


def test_ratios_are_relative_to_ours_and_the_fastest_comes_first():
    times = {"slow": [8.0, 8, 9, 8, 16], "pointsuite": [2.0, 2, 3, 2, 2], "fast": [1.0, 1, 1, 1, 1]}
    row = {"ms": {name: ms[0] for name, ms in times.items()}, "roofline": 0.5, "ratios": tool.ratios(times)}
    fast, slow = "fast 1 (0.50x, 0.50 to 0.50)", "slow 8 (4.00x, 4.00 to 4.00)"
    assert tool.cells(row) == ["pointsuite 2", fast, slow, "roofline 0.5"]
    assert tool.ratios({"pointsuite": [1.0, 2, 1], "other": [1.0, 4, 3]}) == {"other": [1.5, 2, 2.5]}


def test_missing_libraries_are_left_out(monkeypatch):
    monkeypatch.setattr(tool, "optional", lambda name: None)
    cloud = tool.Cloud(64, "cpu")
    assert set(tool.knn(cloud)) == {"pointsuite", "torch cdist + topk", "scipy"}
    assert set(tool.fps(cloud)) == {"pointsuite", "portable"}
    assert tool.optional("no_such_module") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nosuch"], "'nosuch'.* is not known, wanted some of"), (["--device", "tpu"], "invalid choice")],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.main(arguments)
    assert re.search(message, capsys.readouterr().err)
