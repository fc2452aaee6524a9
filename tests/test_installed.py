"""The wheel, without the repository: commands, configs, and what other projects find of it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pointsuite  # noqa: F401  tells MMEngine of its configs

ROOT = Path(__file__).parents[1]


def run(*command, cwd, **env):
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=300, env=env or None
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what the wheel brings, and another to work in."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"  # a build leaves folders behind, whose old files the next wheel would contain
    for name in ("pointsuite", "dense", "configs", "tools"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    build = [
        "-m",
        "pip",
        "wheel",
        str(copy),
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        str(folder),
    ]
    done = run(*build, cwd=folder)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 15e6
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    (folder / "elsewhere").mkdir()
    return folder / "site", folder / "elsewhere"


def test_all_configs_and_commands_are_in_it(installed):
    mim, copy = installed[0] / "pointsuite" / ".mim", installed[0].parent / "copy"
    for kind in ("configs", "tools"):
        wanted = {str(path.relative_to(copy / kind)) for path in (copy / kind).rglob("*.py")}
        assert wanted and wanted == {str(path.relative_to(mim / kind)) for path in (mim / kind).rglob("*.py")}
        assert not any(path.is_symlink() for path in mim.rglob("*"))


def test_it_works_without_the_repository(installed):
    site, elsewhere = installed
    (elsewhere / "mine.py").write_text(
        "_base_ = 'pointsuite::risurconv/risurconv_modelnet40.py'\nmodel = dict(network=dict(k=3))\n"
    )
    names = ["mine.py", "pointsuite::risurconv/risurconv_modelnet40.py", "edsr/edsr-s_srx2_t91.py"]
    code = (
        "import pointsuite, dense, sys; from pointsuite.engine.command import read_config\n"
        f"assert all(m.__file__.startswith({str(site)!r}) for m in (pointsuite, dense))\n"
        f"print([read_config(name).model.type for name in {names}])\n"
        "sys.argv = ['pointsuite', 'train', '--help']\n"
        "from pointsuite.__main__ import main; main()"
    )
    done = run("-c", code, cwd=elsewhere, PYTHONPATH=str(site), PATH="")
    assert done.returncode == 0, done.stderr
    first, usage = done.stdout.splitlines()[:2]
    assert first == "['PointCloudClassifier', 'PointCloudClassifier', 'ImageRestorer']"
    assert usage.startswith("usage: pointsuite train ")


def test_weights_are_in_it(installed):
    site, elsewhere = installed
    weights = {path.name: path.read_bytes() for path in (ROOT / "pointsuite/weights").iterdir()}
    assert {Path(name).suffix for name in weights} == {".json", ".safetensors"}
    assert weights == {path.name: path.read_bytes() for path in (site / "pointsuite/weights").iterdir()}
    corners = [(x, y, z) for x in (0, 9) for y in (0, 3) for z in (0, 1)]
    faces = ["0 1 3 2", "4 6 7 5", "0 4 5 1", "2 3 7 6", "0 2 6 4", "1 5 7 3"]
    vertices = "\n".join(f"{x} {y} {z}" for x, y, z in corners)
    (elsewhere / "box.off").write_text(f"OFF\n8 6 0\n{vertices}\n" + "".join(f"4 {face}\n" for face in faces))
    done = run("-m", "pointsuite", "predict", "box.off", cwd=elsewhere, PYTHONPATH=str(site), PATH="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("box.off: ") and done.stdout.count("%") == 3


def test_other_projects_find_configs(tmp_path):
    from mmengine.config import Config
    from mmengine.hub import get_config

    name = "pointsuite::risurconv/risurconv_modelnet40.py"
    assert get_config(name).model.type == "PointCloudClassifier"
    (tmp_path / "mine.py").write_text(f"_base_ = {name!r}\nmax_epochs = 3\n")
    assert Config.fromfile(tmp_path / "mine.py").model.type == "PointCloudClassifier"


def test_commands_of_the_console(tmp_path):
    done = run("-m", "pointsuite", cwd=tmp_path)
    assert done.returncode == 0 and "\n    train " in done.stdout and "\n    compare " in done.stdout
    done = run("-m", "pointsuite", "trian", cwd=tmp_path)
    assert (
        done.returncode == 1 and done.stderr == "pointsuite: error: no command 'trian'; did you mean train?\n"
    )
    done = run("-m", "pointsuite", "train", "mmdat::detr/detr.py", cwd=tmp_path)
    assert done.returncode == 1 and "found no package 'mmdat', wanted one that is installed" in done.stderr
    done = run("-m", "pointsuite", "train", "risurconv/risurconv-s_kicat.py", cwd=tmp_path)
    assert "did you mean risurconv/risurconv-s_kicad.py" in done.stderr or "kicad.py" in done.stderr
