import re

import numpy as np
import pytest
import torch
from PIL import Image

import dense
from dense.backbones import ConViT, DependencyViT, OverLoCK
from pointsuite.engine.checkpoint import save_checkpoint
from pointsuite.engine.errors import UsageError
from tests.tools.load import load_tool

tool = load_tool("analysis/attention")

CONVIT = {**ConViT.archs["tiny"], "embed_dims": 16, "depth": 2, "patch_size": 32, "local_up_to_layer": 1}
DEPENDENCY = {**DependencyViT.archs["lite_tiny"], "embed_dims": 12, "depth": 2, "prune_blocks": (0,)}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, shape in (("a", (40, 60, 3)), ("b", (50, 40, 3))):
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def checkpoint(path, model, **options):
    torch.manual_seed(0)
    network = dense.create_model(model, num_classes=3, **options)
    meta = {"model": model, "model_args": {"num_classes": 3, **options}}
    save_checkpoint({"state_dict": network.state_dict(), "meta": meta}, path)
    return str(path)


def test_distances_and_gates(images, tmp_path, capsys):
    weights = checkpoint(tmp_path / "convit.pth", "convit_tiny", arch=CONVIT)
    tool.main([weights, str(images), "--out", str(tmp_path / "out")])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["distances.png", "gates.png"]
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "out" / n) for n in ("distances.png", "gates.png")
    ]


def test_trees(images, tmp_path):
    weights = checkpoint(tmp_path / "dependency.pth", "dependency_vit_lite_tiny", arch=DEPENDENCY)
    tool.main([weights, str(images / "a.png"), str(images / "b.png"), "--out", str(tmp_path / "out")])
    pictures = sorted((tmp_path / "out").iterdir())
    assert [p.name for p in pictures] == ["tree_a.png", "tree_b.png"]
    assert Image.open(pictures[0]).size == (448, 448)


def test_guidance(images, tmp_path):
    arch = {**OverLoCK.archs["xt"], "depths": (1, 1, 1, 1), "sub_depths": (1, 1)}
    weights = checkpoint(tmp_path / "overlock.pth", "overlock_xt", arch=arch)
    tool.main([weights, str(images), "--out", str(tmp_path / "out")])
    pictures = sorted((tmp_path / "out").iterdir())
    assert [p.name for p in pictures] == ["guidance_a.png", "guidance_b.png"]
    assert Image.open(pictures[0]).size == Image.open(pictures[1]).size == (448, 448)


def test_other_networks_are_refused(images, tmp_path):
    weights = checkpoint(tmp_path / "shvit.pth", "shvit_s1")
    with pytest.raises(
        UsageError, match=re.escape("found SHViT, wanted a backbone of tokens or with an overview")
    ):
        tool.main([weights, str(images), "--out", str(tmp_path / "out")])
