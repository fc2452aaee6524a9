"""The recipes: they build, take a step on made data, and have the published numbers."""

from pathlib import Path

import pytest
from mmengine.config import Config

from pointsuite.engine.images import find_images
from pointsuite.engine.runner import Runner
from pointsuite.engine.schedules import follow_schedule

from .toy import write_images, write_willow

CONFIGS = Path(__file__).parents[3] / "configs"
PUBLISHED = {
    "cats/cats_r101_b32-100e_spair-71k": ("SPair71k", 256),
    "cats/cats_r101_b32-100e_pf-pascal": ("PFPascal", 256),
    "ufc/ufc_r101_b8-50e_spair-71k": ("SPair71k", 512),
    "ufc/ufc_r101_b8-50e_pf-pascal": ("PFPascal", 512),
}
SMALL = {
    "UFC": {"embed_dims": 16, "attention_dims": 16, "num_heads": 2, "cost_side": 4, "depths": 1},
    "CATs": {"blocks": (2, 4), "grid": 4, "proj_dims": 8, "num_heads": 2},
}
BACKBONE = {"depth": 18, "base_channels": 8, "init_cfg": None}


def load(name):
    return Config.fromfile(CONFIGS / f"{name}.py")


def shrink(cfg, side=64):
    """A small network, small images, one short epoch."""
    network = cfg.model.network
    network.update(SMALL.get(network.type, {}))
    if "backbone" in network:
        network.backbone.update(BACKBONE)
    for split in ("train", "val", "test"):
        loader = cfg[f"{split}_dataloader"]
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        for step in loader.dataset.pipeline:
            if "size" in step:
                step["size"] = side
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.experiment_name, cfg.visualizer = f"{Path(cfg.filename).stem}_{id(cfg)}", None
    return cfg


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_data(name):
    kind, size = PUBLISHED[name]
    cfg = load(name)
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"].dataset
        assert dataset.type == kind and dataset.split == {"train": "trn"}.get(split, split)
        assert [step["size"] for step in dataset.pipeline if "size" in step] == [size]


@pytest.mark.parametrize("name", ["ufc/ufc-tiny_warps_pf-willow", "cats/cats-tiny_warps_pf-willow"])
def test_small_recipes_learn_from_warps(name, tmp_path):
    for folder in ("camvid/train", "pennfudan/images", "restoration/T91", "restoration/BSD68"):
        write_images(tmp_path / folder, 2)
    write_willow(tmp_path / "pf_willow", classes=("cup",), count=2)
    cfg = load(name)
    for split in ("train", "val", "test"):
        cfg[f"{split}_dataloader"].dataset.data_root = str(tmp_path)
    cfg = shrink(cfg)
    cfg.work_dir = str(tmp_path / "run")
    runner = Runner.from_cfg(cfg)
    trained = {Path(path).parts[-2] for path in map(str, find_images(tmp_path)) if "pf_willow" not in path}
    seen = {
        Path(info["img_path"]).parts[-2]
        for info in map(runner.train_dataloader.dataset.get_data_info, range(6))
    }
    assert seen == trained - {"BSD68"}
    runner.train()
    assert runner.message_hub.get_scalar("val/flow/epe").current() > 0
    found = runner.test()
    assert set(found) == {"pck/0.05", "pck/0.1", "pck/0.15"}


def test_baselines_use_what_was_learnt():
    for name in ("ufc/mutual-nn_pf-willow", "cats/cats-tiny_warps_pf-willow"):
        cfg = load(name)
        backbone = cfg.model.network.backbone
        assert backbone.init_cfg.checkpoint == cfg.checkpoint
        learnt = load("ufc/ufc-tiny_warps_pf-willow")
        assert cfg.checkpoint.endswith(f"epoch_{learnt.train_cfg.max_epochs}.pth")
        kept = {key: value for key, value in backbone.items() if key != "init_cfg"}
        assert kept == learnt.model.network.backbone
    assert load("ufc/no-motion_pf-willow").model.network.type == "NoMotion"


@pytest.mark.parametrize("name", ["ufc/ufc_r101_pf-willow", "cats/cats_r101_pf-willow"])
def test_willow_is_tested_as_published(name):
    dataset = load(name).test_dataloader.dataset
    assert dataset.type == "PFWillow" and dataset.data_root == "data/PF-WILLOW" and "folder" not in dataset


def rates(name, length, folder):
    """Learning rates by epoch, of ``length`` iterations each."""
    values, by_epoch = follow_schedule(load(name), length, str(folder))
    assert by_epoch
    return [rate for rate, _ in values]


@pytest.mark.filterwarnings("ignore:Detected call of `scheduler.step")
def test_published_numbers_of_cats(tmp_path):
    cfg = load("cats/cats_r101_b32-100e_pf-pascal")
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 3e-5, 0.05)
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 0.1
    assert cfg.train_dataloader.batch_size == 32 and cfg.randomness.seed == 2021
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert [step["type"] for step in pipeline] == ["LoadPair", "RandomPhotometric", "ResizePair", "PackPair"]
    assert pipeline[1]["prob"] == 0.2 and pipeline[2]["crop_prob"] == 0.5
    assert cfg.model.network.backbone.depth == 101
    found = rates("cats/cats_r101_b32-100e_pf-pascal", 2, tmp_path)
    assert len(found) == 200
    for epoch, factor in {0: 1, 69: 1, 70: 0.5, 80: 0.25, 90: 0.125, 99: 0.125}.items():
        assert found[2 * epoch] == pytest.approx(3e-5 * factor), epoch


@pytest.mark.filterwarnings("ignore:Detected call of `scheduler.step")
def test_chosen_numbers_of_ufc(tmp_path):
    cfg = load("ufc/ufc_r101_b8-50e_spair-71k")
    assert cfg.optim_wrapper.optimizer.lr == 1e-4
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 0.01
    assert cfg.train_dataloader.batch_size == 8
    found = rates("ufc/ufc_r101_b8-50e_spair-71k", 4, tmp_path)
    assert len(found) == 200 and found[0] == pytest.approx(1e-4)
    assert found[100] == pytest.approx(5e-5, rel=0.02) and found[-1] < 1e-7
