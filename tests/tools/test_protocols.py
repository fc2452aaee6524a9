"""tools/test.py --protocols: no row that a network was not trained for."""

import pytest
import torch
from mmengine.config import Config

from pointsuite.engine.checkpoint import save_checkpoint
from pointsuite.engine.errors import UsageError
from pointsuite.registry import MODELS

from .load import REPOSITORY, load_tool

CONFIG = str(REPOSITORY / "configs/baselines/pointnet_kicad.py")
NARROW = dict.fromkeys(("global_channels", "transform_channels", "transform_hidden", "head_dims"), (8, 8))
NETWORK = {"num_classes": 2, **NARROW}
OPTIONS = [
    "--cfg-options",
    *(f"model.network.{key}={value}".replace(" ", "") for key, value in NETWORK.items()),
    *(f"{name}_dataloader.dataset.classes=[dip,so]" for name in ("train", "val", "test")),
]


def checkpoint(path, mode=None):
    """Random weights of a training that rotated in this mode, or that says nothing of it."""
    torch.manual_seed(0)
    cfg = Config.fromfile(CONFIG)
    cfg.model.network.update(NETWORK)
    content = {"state_dict": MODELS.build(cfg.model).state_dict()}
    if mode:
        cfg.train_dataloader.dataset.pipeline[3].mode = mode
        content["meta"] = {"cfg": cfg.pretty_text}
    save_checkpoint(content, path)
    return str(path)


def rows(tmp_path, capsys, *arguments):
    options = ["--work-dir", str(tmp_path), "--protocols", "--num-rotations", "1"]
    load_tool("test").main([CONFIG, *arguments, *options, *OPTIONS])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {line[0]: line[1] != "not" for line in lines if line and "SO3" in line[0] or line[:1] == ["z/z"]}


def test_a_row_that_a_network_was_not_trained_for_has_no_number(tmp_path, capsys, monkeypatch):
    first = checkpoint(tmp_path / "first.pth")  # the config trains under z
    so3, none = checkpoint(tmp_path / "so3.pth", "so3"), checkpoint(tmp_path / "none.pth", "none")
    assert rows(tmp_path, capsys, first) == {"z/z": True, "z/SO3": True, "SO3/SO3": False}
    assert (tmp_path / "predictions.png").is_file()
    monkeypatch.setattr("pointsuite.visualization.draw_predictions", lambda *_, **__: None)  # takes long
    assert rows(tmp_path, capsys, so3) == {"z/z": False, "z/SO3": False, "SO3/SO3": True}
    both = rows(tmp_path, capsys, first, "--so3-checkpoint", so3)
    assert both == {"z/z": True, "z/SO3": True, "SO3/SO3": True}
    with pytest.raises(UsageError, match=r"first.pth: trained under z, wanted one trained under SO\(3\)"):
        rows(tmp_path, capsys, first, "--so3-checkpoint", first)
    with pytest.raises(
        UsageError, match=r"none.pth: .* no RandomRotate under z or SO\(3\), so it has no row"
    ):
        rows(tmp_path, capsys, none)
