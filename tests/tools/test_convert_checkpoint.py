import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, Registry
from torch import nn

import dense
from dense.base import Backbone
from dense.layers import ConvNorm, PooledLinear, switch_to_deploy
from pointsuite.engine.checkpoint import CheckpointError, load_checkpoint, rename_keys
from pointsuite.engine.errors import UsageError

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


def test_convert_to_the_model_of_a_config(published, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS.module_dict, "Toy", Toy)
    config, out = tmp_path / "toy.py", tmp_path / "out.pth"
    config.write_text('model = dict(type="Toy", width=2)\n')
    convert.main([str(config), published, str(out), "--model-args", "width=4"])
    assert load_checkpoint(out)["state_dict"]["line.bias"].equal(torch.arange(4.0))
    with pytest.raises(UsageError, match=r"none\.py: no such config"):
        convert.main([str(tmp_path / "none.py"), published, str(out)])


class ToyBackbone(Backbone):
    """A backbone with a convolution, whose published name is `stem`, and a head, `fc`."""

    archs = {"toy": {"embed_dims": (4,), "depths": (0,)}}

    def __init__(self, arch="toy", **kwargs):
        super().__init__(arch, **kwargs)
        self.downsamples.append(nn.Conv2d(3, 4, 1))
        self.stages.append(nn.Sequential())
        self.set_outputs((4,), (1,), nn.BatchNorm2d)

    def make_head(self, num_classes):
        return PooledLinear(4, num_classes)

    @classmethod
    def convert_official(cls, state_dict):
        rules = [(r"stem\.(.*)", r"backbone.downsamples.0.\1"), (r"norm\.(.*)", r"backbone.norms.0.\1")]
        return rename_keys(state_dict, [*rules, (r"fc\.(.*)", r"head.fc.\1")])


@pytest.fixture
def toy_backbone(monkeypatch):
    zoo = dense.registry.ZOO
    zoo.systems()
    monkeypatch.setattr(zoo, "_builders", dict(zoo._builders))
    monkeypatch.setattr(zoo, "_systems", dict(zoo._systems))
    zoo.register_network("toy_backbone", Registry("of the test"))(ToyBackbone)
    stem = {f"stem.{key}": value for key, value in nn.Conv2d(3, 4, 1).state_dict().items()}
    norm = {f"norm.{key}": value for key, value in nn.BatchNorm2d(4).state_dict().items()}
    head = {f"fc.{key}": value for key, value in nn.Linear(4, 2).state_dict().items()}
    return stem, norm, head


def test_convert_networks_and_bare_backbones(tmp_path, toy_backbone, capsys):
    stem, norm, head = toy_backbone
    files = [str(tmp_path / name) for name in ("published.pth", "out.pth")]
    torch.save({"model": stem | head}, files[0])
    convert.main(["toy_backbone_toy", *files, "--model-args", "num_classes=2"])
    network = dense.create_model("toy_backbone_toy", num_classes=2, pretrained=files[1])
    assert network.head.fc.weight.equal(head["fc.weight"])
    alone = ["--model-args", "features_only=True"]
    with pytest.raises(CheckpointError, match=r"4 missing: norms\.0\.weight"):  # no dense backbone's file
        convert.main(["toy_backbone_toy", *files, *alone])
    torch.save({"model": stem | norm | head}, files[0])
    convert.main(["toy_backbone_toy", *files, *alone])
    assert "dropped or merged: fc.weight, fc.bias" in capsys.readouterr().out
    backbone = dense.create_model("toy_backbone_toy", pretrained=files[1], features_only=True)
    assert backbone.downsamples[0].weight.equal(stem["stem.weight"])


def test_a_file_alone_is_enough(tmp_path, toy_backbone, capsys):
    stem, _, head = toy_backbone
    file = tmp_path / "published.pth"
    torch.save({"model": stem | head}, file)
    convert.main([str(file)])
    assert "published.pth: toy_backbone_toy, num_classes=2\n" in capsys.readouterr().out
    written = tmp_path / "published-toy_backbone_toy.pth"
    assert load_checkpoint(written)["meta"]["model_args"] == {"num_classes": 2}
    convert.main([str(file), str(tmp_path / "out.pth")])
    assert (tmp_path / "out.pth").is_file()
    with pytest.raises(UsageError, match="wanted another one to write"):
        convert.main([str(file), str(file)])
    torch.save({"nobody.weight": torch.ones(2)}, file)
    with pytest.raises(
        CheckpointError, match=r"its keys \(nobody\.weight, \.\.\.\) are of no system known here"
    ):
        convert.main([str(file)])
    torch.save({"stem.weight": torch.ones(4, 3, 1, 1)}, file)
    with pytest.raises(
        CheckpointError, match=r"of no variant; nearest are toy_backbone_toy \(\d tensors differ\)"
    ):
        convert.main([str(file)])


class Normed(nn.Module):
    """Its published weights are named as its own."""

    def __init__(self, deploy=False):
        super().__init__()
        self.layer = ConvNorm(2, 3, 3)
        if deploy:
            switch_to_deploy(self)

    def forward(self, x):
        return self.layer(x)

    def convert_official(self, state_dict):
        return state_dict


def test_deploy(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(dense.registry.ZOO._builders, "normed", Normed)
    file, out = tmp_path / "published.pth", tmp_path / "out.pth"
    network = Normed().eval()
    nn.init.uniform_(network.layer.norm.running_var, 1, 2)
    torch.save(network.state_dict(), file)
    convert.main(["normed", str(file), str(out), "--deploy"])
    assert "merged: branches and norms of 1 layers\n" in capsys.readouterr().out
    written = load_checkpoint(out)
    assert written["meta"]["model_args"] == {"deploy": True}
    assert set(written["state_dict"]) == {"layer.weight", "layer.bias"}
    x = torch.randn(1, 2, 5, 5)
    merged = dense.create_model("normed", pretrained=out, deploy=True)
    torch.testing.assert_close(merged(x), network(x))
    torch.testing.assert_close(dense.load_official(out)(x), network(x))  # as the file says
    for options, message in (({"size": 1}, "unexpected keyword"), ({"pretrained": "x"}, "multiple values")):
        torch.save({**written, "meta": {"model": "normed", "model_args": options}}, tmp_path / "bad.pth")
        with pytest.raises(CheckpointError, match=f"bad.pth: meta.model_args: .*{message}"):
            dense.load_official(tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"it was converted for normed\(deploy=True\)$"):
        dense.create_model("normed", pretrained=out)


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
    torch.save({"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}, published)
    with pytest.raises(UsageError, match="--deploy: toy has no branches or norms to merge"):
        convert.main(["toy", published, out, "--deploy"])
    assert not (tmp_path / "out.pth").exists()
