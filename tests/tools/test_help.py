"""Every command explains itself."""

import pytest

from .load import TOOLS, load_tool

COMMANDS = sorted(path.stem for path in TOOLS.glob("*.py") if 'if __name__ == "__main__"' in path.read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        load_tool(name).main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "usage: " in text and len(text.splitlines()) > 6


def test_help_of_images(capsys):
    with pytest.raises(SystemExit):
        load_tool("benchmark").main(["images", "--help"])
    assert "--growth" in capsys.readouterr().out
