"""Read what a benchmark wrote."""

import json


def read_report(folder, kind, capsys):
    text = (folder / f"benchmark_{kind}_cpu.txt").read_text()
    assert text in capsys.readouterr().out
    return json.loads((folder / f"benchmark_{kind}_cpu.json").read_text()), text
