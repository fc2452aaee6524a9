"""Every pack in packs/ passes."""

from pathlib import Path

import pytest

from . import run

PACKS = sorted((Path(__file__).parent / "packs").rglob("*.json"))


@pytest.mark.parametrize("path", PACKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_pack(path, capsys):
    assert run.main([str(path)]) == 0, capsys.readouterr().out


def test_every_adapter_has_packs():
    folders = {path.parent.name for path in PACKS}
    assert folders == {path.stem for path in (Path(run.__file__).parent / "adapters").glob("[a-z]*.py")}
