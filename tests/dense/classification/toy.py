"""A tiny backbone, folders of images that it can tell apart, and a config that trains it on them."""

from pathlib import Path

import numpy as np
import torch
from mmengine.model import BaseModule
from PIL import Image
from torch import nn

from dense.layers import PooledLinear
from dense.registry import MODELS

REPOSITORY = Path(__file__).parents[3]
COLORS = {"blue": (20, 20, 220), "green": (20, 220, 20), "red": (220, 20, 20)}
CONFIG = f"""
_base_ = "{REPOSITORY}/configs/_base_/default_runtime.py"
default_scope = "dense"
custom_imports = dict(imports=["tests.dense.classification.toy"])
model = dict(
    type="ImageClassifier",
    backbone=dict(type="ToyNet"),
    num_classes=3,
    label_smoothing=0.1,
    augments=[dict(type="RandomErasing", prob=0.5), dict(type="Mixup")],
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ImageFolder",
        data_root="data",
        split="train",
        seed=0,
        pipeline=[
            dict(type="LoadImage"),
            dict(type="RandomResizedCrop", size=16, area=(0.5, 1.0)),
            dict(type="RandomFlip", prob=0.5),
            dict(type="RandAugment", magnitude=2),
            dict(type="PackImage"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ImageFolder",
        data_root="data",
        split="val",
        test_mode=True,
        pipeline=[
            dict(type="LoadImage"),
            dict(type="Resize", scale=(10_000, 18), keep_ratio=True, backend="pillow"),
            dict(type="CenterCrop", crop_size=16),
            dict(type="PackImage"),
        ],
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="TopK", topk=(1, 2))
val_evaluator = test_evaluator
train_cfg = dict(by_epoch=True, max_epochs=4)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=4))
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.3, momentum=0.9))
param_scheduler = dict(type="CosineAnnealingLR", T_max=4)
visualizer = None
"""


@MODELS.register_module()
class ToyNet(BaseModule):
    """One convolution; what `ClassificationNetwork` asks of a backbone, without its place in the contract."""

    def __init__(self, arch="tiny", output_norm=True, init_cfg=None):
        super().__init__(init_cfg)
        self.output_norm = output_norm
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU())

    @classmethod
    def classifier_options(cls, arch):
        return {"output_norm": False}

    def example_inputs(self, batch=2, size=(16, 16)):
        return (torch.randn(batch, 3, *size),)

    def make_head(self, num_classes):
        return PooledLinear(8, num_classes)

    def forward_features(self, x):
        return self.layers(x)

    def forward(self, x):
        return (self.forward_features(x),)


def write_images(folder, count=6, size=(24, 20)):
    """`count` noisy pictures of each colour: folder/<class>/<n>.png."""
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = np.clip(color + rng.normal(0, 20, (*size, 3)), 0, 255)
            Image.fromarray(image.astype(np.uint8)).save(folder / name / f"{i}.png")


def write_project(folder):
    """Data and config of a run in `folder`; 4 iterations an epoch."""
    write_images(folder / "data/train")
    write_images(folder / "data/val", count=3, size=(18, 30))
    (folder / "toy.py").write_text(CONFIG)
    return "toy.py"
