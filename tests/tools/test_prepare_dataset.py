import runpy
from pathlib import Path

import numpy as np
import pytest

from pointsuite.datasets import read_clouds

main = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "prepare_dataset.py"))["main"]


@pytest.fixture
def packed(tmp_path):
    """Five families of six shapes in each of two classes."""
    rng = np.random.default_rng(0)
    paths = [
        f"{folder}.3dshapes/{family}-{i}.wrl"
        for folder in ("Package_SO", "Package_DIP")
        for family in "ABCDE"
        for i in range(6)
    ]
    np.savez(
        tmp_path / "packed.npz",
        points=rng.integers(-32000, 32000, (60, 32, 3), np.int16),
        normals=np.full((60, 32, 3), 73, np.int8),
        material=np.zeros((60, 32), np.uint8),
        materials=np.array(["PIN-01"]),
        path=np.array(paths),
    )
    return str(tmp_path / "packed.npz")


def test_kicad(packed, tmp_path, capsys):
    out = tmp_path / "out" / "kicad.h5"
    limits = ["--num-points", "16", "--max-train-per-class", "10", "--max-test-per-class", "4"]
    arguments = ["kicad", "--source", packed, "--out", str(out), "--classes", "dip", "so", *limits]
    assert main(arguments) == 0
    clouds, info = read_clouds(out, "train")
    assert info.classes == ("dip", "so") and clouds.points.shape == (20, 16, 3)
    assert np.bincount(clouds.label).tolist() == [10, 10]
    assert np.bincount(read_clouds(out, "test")[0].label).tolist() == [4, 4]
    assert f"{out}: 20 train, 8 test" in capsys.readouterr().out
    first = out.read_bytes()
    assert main(arguments) == 0
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "qfp", "--num-points", "8"], "error: class 'qfp': 0 families, wanted at least 4"),
        (["--classes", "so", "--num-points", "64"], "packed.npz: 32 points a shape, wanted at least 64"),
        (["--num-points", "0"], "error: --num-points is 0, wanted at least 1"),
        (["--source", "nowhere"], "error: nowhere: no such folder or file"),
        (["--source", __file__], "not a packed set of KiCad shapes"),
    ],
)
def test_kicad_errors_are_one_line(packed, tmp_path, capsys, arguments, message):
    out = tmp_path / "kicad.h5"
    assert main(["kicad", "--source", packed, "--out", str(out), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_too_large_a_file_is_refused(packed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pointsuite.datasets.kicad.MAX_BYTES", 5000)
    out = tmp_path / "kicad.h5"
    arguments = ["kicad", "--source", packed, "--out", str(out), "--classes", "so", "--num-points", "32"]
    assert main(arguments) == 1
    assert "the file would have 0.0" in capsys.readouterr().err and not out.exists()


def test_unknown_names_are_refused(capsys):
    for arguments in ([], ["nosuch"], ["kicad", "--source", "x", "--classes", "nosuch"]):
        with pytest.raises(SystemExit):
            main(arguments)
    assert "nosuch" in capsys.readouterr().err
