import json
import re
import subprocess
import sys

import pytest

import dense  # noqa: F401  before mmcv

pytest.importorskip("mmdet")

from tests.dense.detection.coco_toy import write_coco
from tests.tools.load import TOOLS, load_tool

tool = load_tool("analysis/macroscopic_correlation")


def test_table_and_picture(tmp_path, capsys):
    first = write_coco(tmp_path / "a", [3, 4, 1, 0], name="first.json")
    second = write_coco(tmp_path / "b", [2] * 5, name="second.json", seed=1)
    out = tmp_path / "new/mc.png"
    tool.main([str(first), str(second), "--out", str(out)])
    said = capsys.readouterr().out
    assert "first.json: 4 images, 2 of them with two boxes or more; 8 boxes" in said
    assert "second.json: 5 images, 5 of them with two boxes or more; 10 boxes" in said
    assert said.count("all images (MC)") == 2 and said.splitlines()[-1] == str(out)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_seed(tmp_path, capsys):
    path = write_coco(tmp_path, [3, 5, 4])
    tables = []
    for seed in ("0", "0", "1"):
        tool.main([str(path), "--seed", seed])
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] != tables[2]


def test_errors_are_one_line(tmp_path):
    few = write_coco(tmp_path / "few", [1, 0])
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    good = write_coco(tmp_path / "good", [2])
    for argv, said in (
        ([tmp_path / "none.json"], "found no such file"),
        ([tmp_path / "broken.json"], "broken.json: found"),
        ([tmp_path / "other.json"], "images: found None, wanted a list of dicts"),
        ([few], "no image has two boxes"),
        ([good, "--deals", "0"], "--deals is 0"),
        ([good, "--out", tmp_path / "mc.pdf"], "wanted .png"),
    ):
        with pytest.raises((OSError, ValueError), match=re.escape(said)) as error:
            tool.main([*map(str, argv)])
        assert "\n" not in str(error.value)
    done = subprocess.run(
        [sys.executable, TOOLS / "analysis/macroscopic_correlation.py", tmp_path / "broken.json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("macroscopic_correlation.py: error: ")
