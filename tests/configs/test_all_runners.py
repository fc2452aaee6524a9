"""Every config, and ten of MMDetection and MMSegmentation with a backbone of dense: built, and a step."""

import gc
import math
from functools import cache, partial
from numbers import Real
from pathlib import Path

import mmengine.config.utils
import mmengine.runner
import pytest
import torch
from mmengine.config import Config

import dense  # noqa: F401  before mmcv
from dense.registry import MODELS
from pointsuite.engine import command
from pointsuite.engine.runner import EpochBasedTrainLoop, Runner
from pointsuite.engine.runner.hooks import CheckpointHook

from . import made

CONFIGS = Path(__file__).parents[2] / "configs"
PATHS = sorted(path for path in CONFIGS.rglob("*.py") if "_base_" not in path.parts)
UNTRAINED = {
    "AnotherPerson",
    "CentreWalk",
    "CopyPrevious",
    "MeanOfNeighbours",
    "MutualNearestNeighbours",
    "NoMotion",
    "SaliencyWalk",
}


def neck(channels):
    return {"neck": {"in_channels": channels}}


def heads(channels):
    return {"decode_head": {"in_channels": channels}, "auxiliary_head": {"in_channels": channels[2]}}


def deeplab(channels):
    head = {"in_channels": channels[-1], "c1_in_channels": channels[0]}
    return {"decode_head": head, "auxiliary_head": {"in_channels": channels[2]}}


def segformer(channels):
    return {"decode_head": {"in_channels": channels}}


# the backbone that takes the place of theirs, and what else is told the channels of its maps
STOCK = {
    "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py": ("DaViT", neck),
    "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py": ("SHViT", neck),
    "mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py": ("BiFormer", heads),
    "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py": ("HorNet", deeplab),
    "mmdet::retinanet/retinanet_r50_fpn_90k_coco.py": ("BiFormer", neck),
    "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py": ("HorNet", neck),
    "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py": ("TransNeXt", neck),
    "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py": ("RAVLT", neck),
    "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py": ("TransNeXt", neck),
    "mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py": ("RAVLT", segformer),
}
QUICK = [*STOCK][:4]
_read_once = cache(mmengine.config.utils.load)


def representatives():
    """The config of the shortest name of each folder, and of each data set that these do not have.

    A data set is the last part of a config's name.
    """
    longest_first = sorted(PATHS, key=lambda path: len(path.stem), reverse=True)

    def data(path):
        return path.stem.rpartition("_")[2].removesuffix("-small")

    chosen = {path.parent: path for path in longest_first}.values()
    known = {data(path) for path in chosen}
    further = {data(path): path for path in longest_first if data(path) not in known}
    return {*chosen, *further.values()}


def name(path):
    return f"{path.parent.name}/{path.stem}"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A run's list of itself, and MMEngine's search for a library's config, would take longer than steps."""
    monkeypatch.setattr(Runner, "_log_env", lambda *args: None)
    monkeypatch.setattr(Config, "pretty_text", "")
    monkeypatch.setattr(mmengine.config.utils, "load", _read_once)


@pytest.fixture
def no_weights(monkeypatch):
    """Networks of any size take no memory: their weights are on the device meta, and stay there."""
    build_model = Runner.build_model

    def build_on_meta(self, model):
        with torch.device("meta"):
            return build_model(self, model)

    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))  # read as numbers
    monkeypatch.setattr(Runner, "build_model", build_on_meta)
    monkeypatch.setattr(Runner, "wrap_model", lambda self, options, model: model)


def load(path, folder):
    argv = [str(path), "--work-dir", str(folder / "run")]
    return command.load_config(command.build_parser("").parse_args(argv))


def run(cfg, folder):
    """A step and a validation on made data; a test of what has nothing to train."""
    gc.collect()  # the runner before this one: it and its hooks hold each other, and the model
    made.shrink(cfg)
    made.use_made_data(cfg, folder / "data")
    cfg.visualizer = None
    torch.manual_seed(0)
    runner = command.build_runner(cfg)
    before = [parameter.detach().clone() for parameter in runner.model.parameters()]
    if made.network_name(cfg) not in UNTRAINED:
        runner.train()
        assert runner.iter == 1
        assert type(runner.train_loop) in (EpochBasedTrainLoop, mmengine.runner.IterBasedTrainLoop)
        assert any((p != q).any() for p, q in zip(runner.model.parameters(), before, strict=True))
        scalars = runner.message_hub.log_scalars
        assert math.isfinite(scalars["train/loss"].current())
        assert any(key.startswith("val/") for key in scalars.keys() - {"val/time", "val/data_time"})
        test = runner.build_test_loop(cfg.test_cfg)
        assert len(test.dataloader) and len(test.evaluator.metrics)
    else:
        found = runner.test()
        assert found and all(isinstance(value, Real) for value in found.values())


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("path", PATHS, ids=name)
def test_every_config_builds(path, tmp_path):
    cfg = load(path, tmp_path)
    runner = command.build_runner(cfg)
    assert (
        sum(parameter.numel() for parameter in runner.model.parameters())
        or made.network_name(cfg) in UNTRAINED
    )
    assert any(isinstance(hook, CheckpointHook) for hook in runner.hooks)


@pytest.mark.parametrize("path", sorted(representatives()), ids=name)
def test_representatives_take_a_step(path, tmp_path):
    run(load(path, tmp_path), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted({*PATHS} - {*representatives()}), ids=name)
def test_the_others_take_a_step(path, tmp_path):
    run(load(path, tmp_path), tmp_path)


def write_stock(base, folder):
    """A config of a library as a user changes it: another backbone, and the channels of its maps."""
    backbone, say = STOCK[base]
    with torch.device("meta"):
        channels = MODELS.build({"type": backbone}).out_channels
    model = {"backbone": {"_delete_": True, "type": f"dense.{backbone}"}, **say(list(channels))}
    if base.startswith("mmseg"):
        model["pretrained"] = None
    path = folder / "config.py"
    path.write_text(f"_base_ = {base!r}\nmodel = {model!r}\n")
    return path


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("base", STOCK)
def test_stock_configs_build_with_our_backbones(base, tmp_path):
    runner = command.build_runner(load(write_stock(base, tmp_path), tmp_path))
    assert type(runner.model.backbone) is MODELS.get(STOCK[base][0])


@pytest.mark.parametrize(
    "base", [pytest.param(base, marks=() if base in QUICK else pytest.mark.slow) for base in STOCK]
)
def test_stock_configs_take_a_step_with_our_backbones(base, tmp_path):
    run(load(write_stock(base, tmp_path), tmp_path), tmp_path)
