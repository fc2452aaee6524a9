import numpy as np
import pytest
import torch
from torch import nn

import dense
from pointsuite.engine.checkpoint import CheckpointError, load_checkpoint, rename_keys
from pointsuite.engine.command import UsageError

from .load import load_tool

convert = load_tool("convert_checkpoint")


class Toy(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.line = nn.Linear(3, width)

    def convert_official(self, state_dict):
        return rename_keys(state_dict, [(r"fc\.(.*)", r"line.\1"), (r"old\..*", None)])


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(dense.registry.ZOO._builders, "toy", Toy)
    monkeypatch.setitem(dense.registry.ZOO._builders, "plain", lambda: nn.Linear(3, 3))


@pytest.fixture
def published(tmp_path):
    """As published: nested, of DataParallel, with an accuracy that is NumPy's."""
    state = {
        "module.fc.weight": torch.ones(4, 3),
        "module.fc.bias": torch.arange(4.0),
        "module.old.x": torch.ones(1),
    }
    path = tmp_path / "published.pth"
    torch.save({"epoch": 3, "accuracy": np.float64(0.9), "model_state_dict": state}, path)
    return str(path)


def test_convert(published, tmp_path, capsys):
    out = tmp_path / "out.pth"
    convert.main(["toy", published, str(out), "--model-args", "width=4"])
    printed = capsys.readouterr().out
    assert "out.pth: toy, 16 parameters" in printed and "dropped or merged: old.x\n" in printed
    checkpoint = load_checkpoint(out)
    assert (
        checkpoint["meta"]["model_args"] == {"width": 4}
        and checkpoint["meta"]["published"] == "published.pth"
    )
    assert set(checkpoint) == {"state_dict", "meta"}
    assert dense.create_model("toy", pretrained=out, width=4).line.bias.equal(torch.arange(4.0))


def test_refusals(published, tmp_path):
    out = str(tmp_path / "out.pth")
    with pytest.raises(CheckpointError, match=r"2 of another shape: line.weight \(4, 3\), wanted \(2, 3\)"):
        convert.main(["toy", published, out])
    with pytest.raises(UsageError, match="plain has no convert_official"):
        convert.main(["plain", published, out])
    with pytest.raises(UsageError, match="has no model 'nothing'"):
        convert.main(["nothing", published, out])
    with pytest.raises(UsageError, match="unexpected keyword argument 'size'"):
        convert.main(["toy", published, out, "--model-args", "size=1"])
    torch.save({"fc.weight": torch.ones(4, 3), "new.x": torch.ones(1)}, published)
    with pytest.raises(CheckpointError, match="1 keys that no rule names: new.x"):
        convert.main(["toy", published, out])
    assert not (tmp_path / "out.pth").exists()
