import re

import pytest

from tests.tools.load import BENCHMARKS, REPOSITORY, load_tool

from .reports import read_report

tool = load_tool("images", BENCHMARKS)


def test_zoo(tmp_path, capsys):
    options = ["--size", "32", "48", "--batch", "2", "--seconds", "0", "--amp", "--channels-last"]
    tool.main(["--model", "shvit_s1", "shvit_s2", *options, "--out", str(tmp_path)])
    report, text = read_report(tmp_path, "images", capsys)
    assert report["command"].startswith("python benchmarks/images.py --model shvit_s1")
    first, second = report["rows"]
    assert first["parameters"] == 6_330_808 and 1e6 < first["macs"] < second["macs"]
    assert first["unit_ms"] == second["unit_ms"]  # they took turns
    for row in report["rows"]:
        assert row["units"] == pytest.approx(row["ms"] / row["unit_ms"]) and row["peak_bytes"] > 0
        assert row["images_per_second"] == pytest.approx(2000 / row["ms"])
        assert row["model"] in text and "2 x 32 x 48" in text


def test_options(tmp_path, capsys):
    names = ["shvit_s1", "shvit_s1(num_classes=3)"]
    tool.main(["--model", *names, "--size", "32", "--batch", "1", "--seconds", "0", "--out", str(tmp_path)])
    plain, small = read_report(tmp_path, "images", capsys)[0]["rows"]
    assert small["model"] == names[1] and small["parameters"] < plain["parameters"]
    for row in (plain, small):
        assert row["floors"] > 0.5  # no faster than a matrix product has them


def test_configs_of_tasks(tmp_path, capsys):
    configs = ["configs/edsr/edsr-s_srx2_t91.py", "configs/vad_hybrid/vad-hybrid-small_ped2.py"]
    paths = [str(REPOSITORY / config) for config in configs]
    options = ["--size", "32", "--batch", "1", "--seconds", "0", "--name", "tasks", "--out", str(tmp_path)]
    tool.main(["--model", *paths, *options])
    report, text = read_report(tmp_path, "tasks", capsys)
    plain, clip = report["rows"]
    assert plain["parameters"] == 195_971
    assert clip["macs"] > 9 * 32 * 32 * 9 * 8  # nine frames: the first convolution alone
    assert "edsr-s_srx2_t91 " in text and "vad-hybrid-small_ped2 " in text


def test_growth(tmp_path, capsys):
    options = ["--growth", "32", "64", "--batch", "1", "--seconds", "0"]
    tool.main(["--model", "shvit_s1", *options, "--out", str(tmp_path)])
    report, text = read_report(tmp_path, "growth", capsys)
    assert [row["size"] for row in report["rows"]] == [[32, 32], [64, 64]]
    assert set(report["growth"]["shvit_s1"]) == {"time", "memory"}
    assert re.search(r"shvit_s1: time ~ pixels\^-?[\d.]+, memory ~ pixels\^", text)


def test_exponents_of_growth():
    rows = [
        {"model": name, "size": [side, 2 * side], "units": 3 * side**4, "peak_bytes": 7 * side**power}
        for side in (10, 20, 40)
        for name, power in (("a", 2), ("b", 3))
    ]
    assert tool.fit_growth(rows, "a") == pytest.approx({"time": 2, "memory": 1})
    assert tool.fit_growth(rows, "b") == pytest.approx({"time": 2, "memory": 1.5})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "shvit_s9"], "dense has no model 'shvit_s9'; did you mean shvit_s"),
        (["--model", "shvit_s1", "--batch", "0"], "must be at least 1"),
        (["--model", "shvit_s1", "--growth", "64"], "at least two sizes"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.main([*arguments])
    assert re.search(message, capsys.readouterr().err)
