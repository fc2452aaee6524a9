import pytest

from pointsuite.engine.comparison import Run, read_runs, write_runs
from pointsuite.engine.errors import UsageError
from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.pointsuite.engine.toy import write_config
from tests.tools.load import REPOSITORY, load_tool

tool = load_tool("analysis/compare")
RESULTS = REPOSITORY / "benchmarks/results"


def test_trains_prints_and_draws(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    config = str(write_config(tmp_path / "configs"))
    argv = [config, "--out", "runs.json", "--curve", "toy/accuracy", "--seeds", "0", "1", "--cfg-options"]
    tool.main([*argv, "train_cfg.max_epochs=1", "visualizer=None"])
    table, curve = capfd.readouterr().out.split("config ")[-1].split("\n\n")
    assert table.split()[:4] == ["parameters", "toy/accuracy", "seeds", "seconds"]
    assert table.splitlines()[1].split()[:3:2] == ["toy", "0.500"] or "+-" in table
    lines = curve.splitlines()
    assert lines[1].split() == ["iteration", "toy"] and lines[2].split()[0] == "5"
    assert lines[-1] == "runs.png" and (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")
    assert [(run.config, run.seed) for run in read_runs("runs.json")] == [("toy", 0), ("toy", 1)]


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        (
            "rotation_protocols",
            ["--metrics", "accuracy/*"],
            {
                "pointnet_kicad": "1263379 82.07 +- 2.97 17.63 +- 0.54 54.93 +- 0.64 3 42",
                "risurconv-s_kicad_z": "930442 84.41 +- 1.66 84.46 +- 1.58 84.19 +- 0.83 3 94",
            },
        ),
        ("camvid_small", [], {"shvit-s1_fpn_camvid-small": "6311835 32.12 40.15 76.37 1 131"}),
        ("relation_detr_pennfudan", [], {"dino_r18_pennfudan": "4215812 0.228 +- 0.052 3 704"}),
    ],
)
def test_recorded_runs_are_printed(name, options, rows, capsys):
    tool.main(["--out", str(RESULTS / f"{name}.json"), *options])
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for config, row in rows.items():
        assert f"{config} {row}" in said


def test_refusals(tmp_path):
    out = tmp_path / "runs.json"
    with pytest.raises(UsageError, match=r"runs\.json: holds no runs, wanted some, or a CONFIG to train"):
        tool.main(["--out", str(out)])
    write_runs(out, [Run("a", 0, metrics={"top1": 1.0})])
    with pytest.raises(UsageError, match="metric 'top5': no run has it, there are top1"):
        tool.main(["--out", str(out), "--metrics", "top5"])
    with pytest.raises(UsageError, match="a: its validations have no 'top1', they have none"):
        tool.main(["--out", str(out), "--curve", "top1"])
    with pytest.raises(UsageError, match="--kind-args: .*'epoch'"):
        tool.main(["a.py", "--kind", "rotation", "--kind-args", "epoch=1"])
