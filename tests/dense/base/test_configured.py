"""Networks of detection and segmentation by name: built of our configs, without what they would download."""

import json

import pytest
import torch
from mmengine.config import Config

import dense
from dense.base import configured
from dense.base.configured import find_config
from dense.registry import ZOO
from pointsuite.engine.errors import UsageError

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

SYSTEMS = ("relation_detr", "relationnet2", "self_guided_attention")
PLUGINS = (
    "relation_dab_detr_r50",
    "relation_deformable_detr_r50",
    "relation_dino_r50",
    "relationnet2_faster_rcnn_r50",
)


def test_names():
    found = dense.list_models()
    wanted = [*PLUGINS, *(f"{name}_{arch}" for name in SYSTEMS for arch in ZOO.systems()[name].archs)]
    assert set(wanted) <= set(found) and len(wanted) == 11


@pytest.mark.parametrize("name", SYSTEMS)
def test_parameters(name):
    cls = ZOO.systems()[name]
    assert cls.num_parameters.keys() == cls.archs.keys()
    for arch, count in cls.num_parameters.items():
        with torch.device("meta"):
            network = dense.create_model(f"{name}_{arch}")
        assert type(network) is cls
        assert all(parameter.is_meta for parameter in network.parameters())
        assert sum(parameter.numel() for parameter in network.parameters()) == count, arch


@pytest.mark.parametrize("name", PLUGINS)
def test_classes_of_all_heads(name):
    with torch.device("meta"):
        network = dense.create_model(name, num_classes=7)
    head = network.roi_head.bbox_head if hasattr(network, "roi_head") else network.bbox_head
    assert head.num_classes == 7 and network.cfg.model.type in (
        type(network).__name__,
        f"dense.{type(network).__name__}",
    )


def test_nothing_is_downloaded(monkeypatch, capfd):
    """Pretrained weights are forgotten, other initial weights are there, and nobody talks about them."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"downloads {args}")

    monkeypatch.setattr("mmengine.runner.checkpoint.CheckpointLoader.load_checkpoint", refuse)
    torch.manual_seed(0)
    network = ZOO.systems()["relationnet2"].smallest(num_classes=3)
    assert "Pretrained" not in json.dumps(network.cfg.model.to_dict())
    # as RetinaNet's heads begin: a class is found with probability 0.01
    torch.testing.assert_close(network.bbox_head.retina_cls.bias.sigmoid(), torch.full((27,), 0.01))
    out, err = capfd.readouterr()
    assert "init_weights" not in out + err


@pytest.mark.parametrize("name", SYSTEMS)
def test_smallest(name):
    """It runs by its example inputs, of two sizes, in both modes."""
    torch.manual_seed(0)
    network = ZOO.systems()[name].smallest()
    assert sum(parameter.numel() for parameter in network.parameters()) < 7e6
    for size in network.example_sizes:
        outputs = network.eval()(*network.example_inputs(1, size))
        assert all(x.isfinite().all() for x in flatten(outputs))
    assert all(x.requires_grad for x in flatten(network.train()(*network.example_inputs(2, (64, 96)))))


def flatten(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else [x for part in outputs for x in flatten(part)]


def test_configs_of_ones_own(tmp_path):
    path = find_config("relation_detr/relation-detr_r50_8xb2-12e_coco.py")
    assert Config.fromfile(path).model.type == "dense.RelationDETR"
    (tmp_path / "own.py").write_text(f"_base_ = {str(path)!r}\nmodel = dict(num_queries=40)\n")
    with torch.device("meta"):
        network = dense.create_model("relation_detr_r50", arch={"config": str(tmp_path / "own.py")})
    assert network.num_queries == 40


def test_a_missing_config_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(configured, "FOLDERS", (tmp_path / "configs", tmp_path / "dense/.mim/configs"))
    with pytest.raises(
        UsageError, match=r"configs/some/net\.py: no such config, nor .*\.mim/configs/some/net\.py"
    ):
        find_config("some/net.py")
    (tmp_path / "dense/.mim/configs/some").mkdir(parents=True)
    (tmp_path / "dense/.mim/configs/some/net.py").touch()
    assert find_config("some/net.py") == tmp_path / "dense/.mim/configs/some/net.py"
