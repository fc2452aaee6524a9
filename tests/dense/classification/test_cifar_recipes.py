"""The recipes on CIFAR-100: their networks, rates, and a short run of each."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from dense.layers import WeightedConv2d
from dense.layers.weighted_conv import density_parameters
from dense.registry import MODELS
from pointsuite.engine.runner import Runner
from pointsuite.engine.schedules import follow_schedule

from .test_datasets import make_cifar, write_files

CONFIGS = Path(__file__).parents[3] / "configs/weighted_conv"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*cifar100.py"))
SMALL = {
    "VGGCifar": {"embed_dims": (8, 8), "depths": (1, 1)},
    "ResNetCifar": {"embed_dims": (8, 8), "depths": (1, 1)},
}
COUNTS = {"VGGCifar": 14_774_436, "ResNetCifar": 11_220_132}


def test_there_are_recipes():
    assert RECIPES == [
        "resnet18-weighted_cifar100",
        "resnet18_cifar100",
        "vgg16-trainable_cifar100",
        "vgg16-weighted_cifar100",
        "vgg16_cifar100",
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_networks(name):
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    with DefaultScope.overwrite_default_scope("dense"), torch.device("meta"):
        model = MODELS.build(cfg.model)
    weighted = sum(isinstance(m, WeightedConv2d) for m in model.modules())
    convolutions = {"VGGCifar": 13, "ResNetCifar": 17}[type(model.backbone).__name__]
    assert weighted == (0 if "-" not in name else convolutions)
    learned = len(density_parameters(model))
    assert learned == (convolutions if "trainable" in name else 0)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[type(model.backbone).__name__] + learned


@pytest.mark.filterwarnings("ignore:Detected call of `scheduler.step")
@pytest.mark.parametrize("name", ["vgg16_cifar100", "resnet18-weighted_cifar100"])
def test_rates(name, tmp_path):
    values, _ = follow_schedule(Config.fromfile(CONFIGS / f"{name}.py"), 2, str(tmp_path))
    found = [rate for rate, _ in values]
    assert len(found) == 2 * 200 and found[0] == 0.1 and min(found) == found[-1] < 1e-4
    assert found[200] == pytest.approx(0.05, rel=1e-2)
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.momentum, optimizer.weight_decay, cfg.train_dataloader.batch_size) == (0.9, 5e-4, 128)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_train_and_test(name, tmp_path):
    write_files(make_cifar(100, per_file=6)[0], tmp_path)
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    cfg.model.backbone.arch = SMALL[cfg.model.backbone.type]
    for loader in (cfg.train_dataloader, cfg.test_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(tmp_path)
        loader.update(batch_size=3, num_workers=0, persistent_workers=False)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.work_dir, cfg.visualizer, cfg.experiment_name = str(tmp_path / "run"), None, f"{name}_{id(cfg)}"
    runner = Runner.from_cfg(cfg)
    before = [p.detach().clone() for p in runner.model.parameters()]
    runner.train()
    changed = [(b != p).any() for b, p in zip(before, runner.model.parameters(), strict=True)]
    assert sum(changed) >= len(changed) - 2  # a bias before a norm may stay
    assert 0 <= runner.message_hub.get_scalar("val/accuracy/top1").current() <= 100
    dumped = Config.fromfile(next((tmp_path / "run").rglob("*.py")))
    assert dumped.model.backbone.get("density") == cfg.model.backbone.get("density")
    for density in density_parameters(runner.model):
        assert density.abs().max() < 1 and density.item() != pytest.approx(0.7, abs=1e-6)


def test_a_density_by_the_command_line():
    cfg = Config.fromfile(CONFIGS / "vgg16-weighted_cifar100.py")
    cfg.merge_from_dict({"model.backbone.density.3": [0.9]})
    cfg.model.backbone.arch = SMALL["VGGCifar"]
    with DefaultScope.overwrite_default_scope("dense"):
        model = MODELS.build(cfg.model)
    assert model.backbone.stages[0][0].conv.density.item() == pytest.approx(0.9)
