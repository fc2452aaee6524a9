import json
import subprocess
import sys

import h5py
import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from pointsuite.visualization import open3d_backend

from .load import TOOLS, load_tool

main = load_tool("visualize").main
OFF = "OFF4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"


@pytest.fixture(autouse=True)
def matplotlib_only(monkeypatch):
    monkeypatch.setattr(open3d_backend, "why_not", lambda: "the test says so")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "set.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/points"] = rng.integers(-32767, 32768, (3, 40, 3)).astype(np.int16)
            file[f"{split}/part"] = rng.integers(0, 4, (3, 40)).astype(np.uint8)
    return tmp_path / "set.h5"


def size_and_colours(path) -> tuple[tuple[int, int], int]:
    image = matplotlib.image.imread(path)
    return image.shape[1::-1], len(np.unique(image.reshape(-1, image.shape[2]), axis=0))


def test_a_mesh_to_a_picture(tmp_path, capsys):
    mesh, out = tmp_path / "tetrahedron.off", tmp_path / "pictures" / "mesh.png"
    mesh.write_text(OFF)
    assert main([str(mesh), "--out", str(out), "--size", "120", "90", "--num-points", "500"]) == 0
    assert size_and_colours(out) == ((120, 90), pytest.approx(1000, abs=998))
    assert capsys.readouterr().out == f"{out}: 500 points of {mesh}\n"


def test_a_cloud_is_thinned_only_when_asked(dataset, tmp_path, capsys):
    for arguments, count in (([], 40), (["--num-points", "7"], 7), (["--num-points", "99"], 40)):
        shape = f"{dataset}:train:2"
        assert main([shape, "--color", "part", "--out", str(tmp_path / "x.png"), *arguments]) == 0
        assert f": {count} points of {shape}\n" in capsys.readouterr().out


def test_predictions_to_a_grid_and_a_matrix(dataset, tmp_path, capsys):
    np.savez(tmp_path / "said.npz", index=[0, 2], label=[0, 1], prediction=[0, 0], classes=["a", "b"])
    grid, matrix = tmp_path / "grid.png", tmp_path / "matrix.png"
    arguments = [str(dataset), "--predictions", str(tmp_path / "said.npz")]
    assert main([*arguments, "--out", str(grid), "--confusion", str(matrix)]) == 0
    assert capsys.readouterr().out == f"{grid}: 1 of 2 right\n{matrix}: 1 of 2 right\n"
    assert size_and_colours(grid)[1] > 10 and size_and_colours(matrix)[1] > 10


def test_bad_input_gives_one_line_and_exit_code_2(dataset, tmp_path, capsys):
    mesh = tmp_path / "tetrahedron.off"
    mesh.write_text(OFF)
    (tmp_path / "cut.ply").write_text("ply\nformat ascii 1.0\nelement vertex 9\n")
    (tmp_path / "empty.pcd").write_bytes(b"")
    out = ["--out", str(tmp_path / "x.png")]
    for arguments, message in (
        (["missing.ply", *out], "missing.ply: found no such file"),
        ([str(tmp_path), *out], "found no regular file"),
        ([str(tmp_path / "cut.ply"), *out], "cut.ply: found no end of the PLY header"),
        ([str(tmp_path / "empty.pcd"), *out], "empty.pcd: found an empty file"),
        ([str(dataset), "--split", "val", *out], "wanted 'val'"),
        ([str(dataset), "--index", "9", *out], "wanted a row 9"),
        ([str(mesh), "--color", "part", *out], "colors by part, but the cloud has no part"),
        ([str(mesh), "--color", "file", *out], "found no colours, wanted some for --color file"),
        ([str(mesh), "--num-points", "0", *out], "--num-points is 0, wanted 1 or more"),
        ([str(mesh), "--out", str(tmp_path / "x.bmp")], "wanted .png"),
        ([str(mesh), "--out", str(mesh / "x.png")], "tetrahedron.off"),
        (
            [str(mesh)],
            "no screen to open a window on, wanted one at DISPLAY or WAYLAND_DISPLAY; --out FILE.png",
        ),
        ([str(dataset), "--predictions", "missing.npz", *out], "missing.npz: found no such file"),
        ([str(dataset), "--predictions", "missing.npz"], "wanted --out or --confusion"),
    ):
        assert main(arguments) == 2, arguments
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("visualize: "), arguments
        assert message in captured.err and captured.err.count("\n") == 1, captured.err
        assert not (tmp_path / "x.png").exists()


def test_pages_of_images_and_of_predictions(tmp_path, capsys):
    for i in range(3):
        Image.new("RGB", (8, 6), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    page = tmp_path / "page.html"
    assert main([str(tmp_path), "--out", str(page), "--limit", "2"]) == 0
    assert capsys.readouterr().out == f"{page}: 2 of {tmp_path}\n" and page.read_text().count("<img ") == 2
    said = {"predictions": [{"file": str(tmp_path / "0.png"), "files": [str(tmp_path / "1.png")]}]}
    (tmp_path / "said.json").write_text(json.dumps(said))
    assert main([str(tmp_path / "said.json"), "--out", str(page)]) == 0
    assert page.read_text().count("<img ") == 1
    assert main([str(tmp_path / "0.json"), "--out", str(tmp_path / "x.html")]) == 2
    assert capsys.readouterr().err.startswith(f"visualize: {tmp_path / '0.json'}: found no such file")
    assert not (tmp_path / "x.html").exists()


def test_as_a_command(tmp_path):
    (tmp_path / "cut.ply").write_text("ply\n")
    command = [
        sys.executable,
        str(TOOLS / "visualize.py"),
        str(tmp_path / "cut.ply"),
        "--out",
        str(tmp_path / "x.png"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr
        == f"visualize: {tmp_path / 'cut.ply'}: found no end of the PLY header, wanted a line end_header\n"
    )
