"""Every pack in packs/ passes, and the comparison can fail."""

import json
from pathlib import Path

import pytest

from . import run

PACKS = sorted((Path(__file__).parent / "packs").rglob("*.json"))


@pytest.mark.parametrize("path", PACKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_pack(path, capsys):
    assert run.main([str(path)]) == 0, capsys.readouterr().out


def test_there_are_packs():
    assert len(PACKS) >= 9


def test_a_wrong_value_fails(tmp_path, capsys):
    source = next(path for path in PACKS if path.stem == "op_point_attention")
    pack = json.loads(source.read_text())
    pack["outputs"]["y"]["value"][3] += 0.01
    (tmp_path / "wrong.json").write_text(json.dumps(pack))
    assert run.main([str(tmp_path / "wrong.json")]) == 1
    assert "too large" in capsys.readouterr().out


def test_an_unknown_system_fails(tmp_path, capsys):
    (tmp_path / "unknown.json").write_text(json.dumps({"source": "nobody", "state_dict": [], "inputs": {}}))
    assert run.main([str(tmp_path / "unknown.json")]) == 1
    assert "no adapter" in capsys.readouterr().out
