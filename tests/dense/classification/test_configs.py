"""The recipes: their images, and the published numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from dense.classification.augment import Mixup, RandomErasing
from dense.registry import DATASETS, MODELS
from pointsuite.engine.schedules import follow_schedule

from .test_datasets import write_idx

CONFIGS = Path(__file__).parents[3] / "configs"


def write_data(name, folder):
    rng = np.random.default_rng(0)
    if name.endswith("fashion-mnist"):
        for prefix, count in (("train", 12), ("t10k", 6)):
            images = rng.integers(0, 256, (count, 28, 28))
            write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
            write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count) % 10)
        return
    for split in ("train", "val"):
        for i in range(2):
            (folder / split / f"n{i}").mkdir(parents=True)
            for k in range(3):
                image = Image.fromarray(rng.integers(0, 256, (300 + 10 * k, 260, 3)).astype(np.uint8))
                image.save(folder / split / f"n{i}/{k}.JPEG")


@pytest.mark.parametrize(
    ("name", "side"), {"shvit/shvit-s1_fashion-mnist": 64, "davit/davit-t_imagenet": 224}.items()
)
def test_images_of_the_recipes(name, side, tmp_path):
    write_data(name, tmp_path)
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        dataset = DATASETS.build({**loader.dataset, "data_root": str(tmp_path)})
        assert dataset[0]["inputs"].shape == (3, side, side)


def rates(name, length, folder):
    """Learning rates by epoch, of `length` iterations each."""
    values, by_epoch = follow_schedule(Config.fromfile(CONFIGS / f"{name}.py"), length, str(folder))
    assert by_epoch
    return [rate for rate, _ in values]


@pytest.mark.filterwarnings("ignore:Detected call of `scheduler.step")
def test_published_recipe_of_davit(tmp_path):
    found = rates("davit/davit-t_imagenet", 4, tmp_path)
    assert len(found) == 4 * 310
    assert found[0] == pytest.approx(1e-6) and found[4 * 5] == max(found) == pytest.approx(1e-3, rel=1e-4)
    middle = 5 + (300 - 5) // 2
    assert found[4 * middle + 2] == pytest.approx((1e-3 + 1e-5) / 2, rel=1e-2)
    assert set(found[4 * 300 + 1 :]) == {found[-1]} and found[-1] == pytest.approx(1e-5, rel=1e-3)

    cfg = Config.fromfile(CONFIGS / "davit/davit-t_imagenet.py")
    model = MODELS.build({**cfg.model, "type": "dense.ImageClassifier"})
    erasing, mixup = model.augments
    assert isinstance(erasing, RandomErasing) and erasing.prob == 0.25
    assert isinstance(mixup, Mixup) and (mixup.mixup, mixup.cutmix, mixup.switch) == (0.8, 1.0, 0.5)
    assert sum(p.numel() for p in model.parameters()) == 28_360_168 and model.label_smoothing == 0.1
    rates_of_drop_path = [m.rate for m in model.backbone.modules() if type(m).__name__ == "DropPath"]
    assert max(rates_of_drop_path) == pytest.approx(0.1)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 1e-3, 0.05)


def test_the_test_pipeline_takes_the_middle(tmp_path):
    """The short side to 248, then the middle 224 x 224, from images that lie and that stand."""
    (tmp_path / "val/a").mkdir(parents=True)
    wide = np.zeros((248, 400, 3), np.uint8)
    wide[12:236, 88:312] = 200
    Image.fromarray(wide).save(tmp_path / "val/a/0.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "val/a/1.png")
    cfg = Config.fromfile(CONFIGS / "davit/davit-t_imagenet.py").test_dataloader.dataset
    dataset = DATASETS.build({**cfg, "data_root": str(tmp_path)})
    for item in (dataset[0], dataset[1]):
        assert item["inputs"].equal(torch.full((3, 224, 224), 200, dtype=torch.uint8))
