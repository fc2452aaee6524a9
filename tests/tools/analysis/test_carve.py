import argparse

import numpy as np
import pytest
from PIL import Image

from dense.explain import providers
from dense.explain.answerer import AnswererVLM
from pointsuite.engine.errors import UsageError
from tests.dense.explain.test_answerer import make_answerer, make_picture
from tests.tools.load import load_tool

tool = load_tool("analysis/carve")


@pytest.fixture
def picture(tmp_path):
    make_picture().save(tmp_path / "mosaic.png")
    return tmp_path / "mosaic.png"


def test_pictures_and_answers(picture, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(providers, "load_provider", lambda *_, **__: AnswererVLM(make_answerer()))
    argv = [str(picture), "--model", "run", "--question", "what is top left ?", "--layers", "0-1"]
    tool.main([*argv, "--version", "v3", "--keep", "1", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [str(tmp_path / "out" / f"{name}_mosaic.png") for name in ("refined", "carve")]
    assert said[3].startswith("  the image alone: ")
    refined = Image.open(said[0])
    assert refined.width >= 95
    assert refined.height >= 63
    assert np.asarray(refined).any()
    assert Image.open(said[1]).width > 500


def test_absent_models_are_named(picture):
    argv = [str(picture), "--question", "what is top ?", "--model"]
    with pytest.raises((UsageError, OSError, ValueError), match="nothing_here"):
        tool.main([*argv, "nothing_here"])


def test_layers():
    assert tool.parse_layers("20-22,3") == (20, 21, 22, 3)
    with pytest.raises(argparse.ArgumentTypeError, match="found 'a-b', wanted numbers of layers"):
        tool.parse_layers("a-b")
