import pytest
import torch

import dense
from pointsuite.engine.checkpoint import save_checkpoint
from pointsuite.engine.errors import UsageError
from tests.dense.explain.test_answerer import make_picture
from tests.tools.load import load_tool

tool = load_tool("analysis/relevance")
ARCH = {"embed_dims": (4, 8), "depths": (1, 1)}


@pytest.fixture
def argv(tmp_path):
    torch.manual_seed(0)
    options = {"num_classes": 3, "arch": ARCH}
    network = dense.create_model("resnet_cifar_18", **options)
    meta = {"model": "resnet_cifar_18", "model_args": options}
    save_checkpoint({"state_dict": network.state_dict(), "meta": meta}, tmp_path / "net.pth")
    make_picture().save(tmp_path / "a.png")
    return [str(tmp_path / "net.pth"), str(tmp_path / "a.png")]


def test_table(argv, capsys):
    tool.main([*argv, "--layers", "head", "--rules", "published", "alpha_beta"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 images"
    assert lines[1].split() == ["before", "published", "alpha_beta"]
    assert lines[2].startswith("the image")
    assert lines[3].split() == ["head", "1.000", "(0.000)", "1.000", "(0.000)"]


def test_unknown_rules_are_named(argv):
    with pytest.raises(UsageError, match="--rules: found 'alphabeta'.*did you mean alpha_beta"):
        tool.main([*argv, "--rules", "alphabeta"])
