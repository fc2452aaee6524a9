import json
import re
from pathlib import Path

import pytest

from .load import load_tool

tool = load_tool("benchmark")


def test_quick_run_covers_every_operator_and_a_model(tmp_path, capsys):
    tool.main(["--quick", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "benchmark_cpu.json").read_text())
    assert {row["op"] for row in report["ops"]} == set(tool.OPS)
    for row in report["ops"]:
        assert len(row["ms"]) >= 1 and all(value > 0 for value in row["ms"].values())
    assert {row["points"] for row in report["ops"]} == {128, 512}
    assert all(value > 0 for value in report["models"][0]["units"].values())
    assert report["command"].startswith("python tools/benchmark.py --quick")
    text = (tmp_path / "benchmark_cpu.txt").read_text()
    assert text in capsys.readouterr().out
    assert "torch cdist + topk" in text and "training step" in text
    assert (tmp_path / "benchmark_cpu.png").read_bytes().startswith(b"\x89PNG")


def test_every_exported_operator_is_timed():
    from pointsuite import ops

    helpers = {"NUM_FEATURES", "graph", "inverse_distance_weights", "weighted_normal"}
    names = {"farthest_point_sample" if name == "fps" else name for name in tool.OPS}
    assert set(ops.__all__) - helpers == names


def test_ratios_are_relative_to_ours_and_the_fastest_comes_first():
    row = {"ms": {"slow": 8.0, "pointsuite": 2.0, "fast": 1.0}, "roofline": 0.5}
    assert tool.cells(row) == ["pointsuite 2", "fast 1 (0.50x)", "slow 8 (4.00x)", "roofline 0.5"]


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


def read_images(folder, kind, capsys):
    text = (folder / f"benchmark_{kind}_cpu.txt").read_text()
    assert text in capsys.readouterr().out
    return json.loads((folder / f"benchmark_{kind}_cpu.json").read_text()), text


def test_images(tmp_path, capsys):
    options = ["--size", "32", "48", "--batch", "2", "--seconds", "0", "--amp", "--channels-last"]
    tool.main(["images", "--model", "shvit_s1", "shvit_s2", *options, "--out", str(tmp_path)])
    report, text = read_images(tmp_path, "images", capsys)
    assert report["command"].startswith("python tools/benchmark.py images --model shvit_s1")
    first, second = report["rows"]
    assert first["parameters"] == 6_330_808 and 1e6 < first["macs"] < second["macs"]
    assert first["unit_ms"] == second["unit_ms"]  # they took turns
    for row in report["rows"]:
        assert row["units"] == pytest.approx(row["ms"] / row["unit_ms"]) and row["peak_bytes"] > 0
        assert row["images_per_second"] == pytest.approx(2000 / row["ms"])
        assert row["model"] in text and "2 x 32 x 48" in text


def test_configs_of_tasks(tmp_path, capsys):
    configs = ["configs/edsr/edsr-s_srx2_t91.py", "configs/vad_hybrid/vad-hybrid-small_ped2.py"]
    paths = [str(Path(tool.__file__).parents[1] / config) for config in configs]
    options = ["--size", "32", "--batch", "1", "--seconds", "0", "--name", "tasks", "--out", str(tmp_path)]
    tool.main(["images", "--model", *paths, *options])
    report, text = read_images(tmp_path, "tasks", capsys)
    plain, clip = report["rows"]
    assert plain["parameters"] == 195_971
    assert clip["macs"] > 9 * 32 * 32 * 9 * 8  # nine frames: the first convolution alone
    assert "edsr-s_srx2_t91 " in text and "vad-hybrid-small_ped2 " in text


@pytest.mark.slow
def test_relation(tmp_path, capsys):
    tool.main(["relation", "--queries", "20", "--size", "64", "96", "--seconds", "0", "--out", str(tmp_path)])
    report, text = read_images(tmp_path, "relation", capsys)
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


def test_growth(tmp_path, capsys):
    options = ["--growth", "32", "64", "--batch", "1", "--seconds", "0"]
    tool.main(["images", "--model", "shvit_s1", *options, "--out", str(tmp_path)])
    report, text = read_images(tmp_path, "growth", capsys)
    assert [row["size"] for row in report["rows"]] == [[32, 32], [64, 64]]
    assert set(report["growth"]["shvit_s1"]) == {"time", "memory"}
    assert re.search(r"shvit_s1: time ~ pixels\^-?[\d.]+, memory ~ pixels\^", text)


def test_exponents_of_growth():
    rows = [
        {"model": name, "size": [side, 2 * side], "units": 3 * side**4, "peak_bytes": 7 * side**power}
        for side in (10, 20, 40)
        for name, power in (("a", 2), ("b", 3))
    ]
    images = load_tool("benchmark_images")
    assert images.fit_growth(rows, "a") == pytest.approx({"time": 2, "memory": 1})
    assert images.fit_growth(rows, "b") == pytest.approx({"time": 2, "memory": 1.5})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "shvit_s9"], "dense has no model 'shvit_s9'; did you mean shvit_s"),
        (["--model", "shvit_s1", "--batch", "0"], "must be at least 1"),
        (["--model", "shvit_s1", "--growth", "64"], "at least two sizes"),
    ],
)
def test_bad_arguments_of_images(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.main(["images", *arguments])
    assert re.search(message, capsys.readouterr().err)
