"""Every config loads; it inherits mmdet's, mmseg's, ``_base_`` or its own folder, never another system."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmengine.config import Config

import dense  # noqa: F401  before mmdet and mmseg, whose configs are inherited

CONFIGS = Path(__file__).parents[2] / "configs"
ROOMS = ("datasets", "models", "recipes", "runtimes", "schedules")
RUNS = [path for path in sorted(CONFIGS.rglob("*.py")) if "_base_" not in path.parts]


def read_bases(path: Path) -> list[str]:
    """What the file says after ``_base_ =``."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "_base_":
            bases = ast.literal_eval(node.value)
            return [bases] if isinstance(bases, str) else list(bases)
    return []


def find_faults(root: Path) -> Iterator[str]:
    """Of all configs below ``root`` what breaks the rules, a line each."""
    systems = {folder.name for folder in root.iterdir() if folder.is_dir() and folder.name != "_base_"}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        system = name.parts[0]
        for base in read_bases(path):
            if "::" in base:
                if base.split("::")[0] not in ("mmdet", "mmseg"):
                    yield f"{name}: inherits {base}, wanted mmdet:: or mmseg::"
                continue
            target = (path.parent / base).resolve()
            if not target.is_file():
                yield f"{name}: inherits {base}, which is not there"
            elif root.resolve() not in target.parents:
                yield f"{name}: inherits {base}, outside of configs"
            elif (owner := target.relative_to(root.resolve()).parts[0]) not in (system, "_base_"):
                yield f"{name}: inherits {base}, of another system, {owner}"
        if system == "_base_" and name.parent.name not in ROOMS and path.name != "default_runtime.py":
            yield f"{name}: lies in none of {', '.join(ROOMS)}"
        if system == "_base_" and (owners := systems & set(re.split("[-_]", path.stem))):
            yield f"{name}: belongs to {', '.join(owners)}"


def test_the_rules_hold():
    assert len(RUNS) > 100
    assert list(find_faults(CONFIGS)) == []


def test_every_base_is_inherited():
    files = sorted(CONFIGS.rglob("*.py"))
    inherited = {(path.parent / base).resolve() for path in files for base in read_bases(path)}
    left = {path for path in files if "_base_" in path.parts} - inherited
    assert left == {CONFIGS / "_base_/default_runtime.py"}  # which configs of users inherit


@pytest.mark.parametrize(
    ("file", "base", "fault"),
    [
        ("edsr/a.py", '"../hat/b.py"', "edsr/a.py: inherits ../hat/b.py, of another system, hat"),
        ("edsr/a.py", '["../_base_/models/net.py", "../hat/b.py"]', "another system, hat"),
        ("_base_/models/a.py", '"../../hat/b.py"', "another system, hat"),
        ("edsr/a.py", '"../hat/_base_/c.py"', "another system, hat"),
        ("edsr/a.py", '"../_base_/models/none.py"', "which is not there"),
        ("edsr/a.py", '"../../elsewhere.py"', "outside of configs"),
        ("edsr/a.py", '"mmpretrain::a.py"', "wanted mmdet:: or mmseg::"),
        ("_base_/a.py", '"models/net.py"', "lies in none of datasets, models, recipes, runtimes, schedules"),
        ("_base_/schedules/hat_finetune.py", "[]", "belongs to hat"),
    ],
)
def test_faults_are_found(tmp_path, file, base, fault):
    root = tmp_path / "configs"
    for name in ("_base_/models/net.py", "hat/b.py", "hat/_base_/c.py", "../elsewhere.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")
    (root / "hat/a.py").write_text(
        '_base_ = ["b.py", "_base_/c.py", "../_base_/models/net.py", "mmdet::x.py"]\n'
    )
    assert list(find_faults(root)) == []
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(f"_base_ = {base}\n")
    (found,) = find_faults(root)
    assert fault in found


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_loads(path):
    assert {"model", "default_scope", "test_dataloader", "test_evaluator"} <= set(Config.fromfile(path))
