"""A tiny matcher, made pictures of what it can match, and a config that trains it on them."""

import json
from pathlib import Path

import numpy as np
from mmengine.model import BaseModule
from PIL import Image
from torch import nn

from dense.matching.cost_volume import correlate
from dense.ops.flow import grid_positions, soft_argmax
from dense.registry import MODELS

REPOSITORY = Path(__file__).parents[3]
CONFIG = f"""
_base_ = "{REPOSITORY}/configs/_base_/default_runtime.py"
default_scope = "dense"
custom_imports = dict(imports=["tests.dense.matching.toy"])
model = dict(type="DenseMatcher", network=dict(type="ToyMatcher"))
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ImageFiles",
        data_root="data",
        folders=["a", "b"],
        pipeline=[
            dict(type="LoadImage"),
            dict(type="RandomResizedCrop", size=32),
            dict(type="RandomWarp"),
            dict(type="RandomPhotometric"),
            dict(type="PackPair"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="PFWillow",
        data_root="willow",
        test_mode=True,
        pipeline=[dict(type="LoadPair"), dict(type="ResizePair", size=32), dict(type="PackPair")],
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="PCK")
val_evaluator = test_evaluator
train_cfg = dict(by_epoch=True, max_epochs=3, val_interval=3)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=4))
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3))
visualizer = dict(type="MatchVisualizer", least=64)
"""


@MODELS.register_module()
class ToyMatcher(nn.Module):
    """Two convolutions, each of whose maps gives a flow."""

    def __init__(self):
        super().__init__()
        self.coarse, self.fine = nn.Conv2d(3, 16, 8, 8), nn.Conv2d(3, 8, 4, 4)

    def forward(self, source, target):
        return [read_flow(layer(source), layer(target)) for layer in (self.coarse, self.fine)]

    def match(self, source, target):
        flow = self(source, target)[-1]
        return flow, flow.norm(dim=1).neg().exp()


def read_flow(source, target):
    size = tuple(source.shape[2:])
    scores = correlate(source.flatten(2).mT, target.flatten(2).mT).mT
    position = grid_positions(size, source)
    found = soft_argmax(scores, (position[0, 0], position[1, :, 0]), beta=0.05)
    return found.mT.unflatten(2, size) - position


@MODELS.register_module()
class ToyBackbone(BaseModule):
    """Two maps, of strides 4 and 8."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.stem, self.stage = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 16, 2, 2)

    def forward(self, x):
        x = self.stem(x)
        return x, self.stage(x)


def blobs(size, rng, count=12):
    """A smooth random picture of a size (W, H), every place of which looks different."""
    coarse = rng.integers(0, 256, (count, count, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write_images(folder, count=4, size=(50, 40)):
    folder.mkdir(parents=True)
    for i in range(count):
        blobs(size, np.random.default_rng(i)).save(folder / f"{i}.png")


def write_willow(folder, classes=("cup", "fish"), count=3):
    """A data set in the layout of keypoints.json; returns the points by the image's name."""
    rng = np.random.default_rng(1)
    images = {}
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            size = (40 + 4 * i, 30 + 2 * i)
            blobs(size, rng).save(folder / name / f"{i}.png")
            points = rng.uniform(1, size, (10, 2)).round(2)
            images[f"{name}/{i}.png"] = {"size": list(size), "kps": points.tolist()}
    (folder / "keypoints.json").write_text(json.dumps({"images": images}))
    return {name: np.array(image["kps"], np.float32) for name, image in images.items()}


def write_project(folder):
    """Data and config of a run in ``folder``: 2 iterations an epoch, 12 pairs to test."""
    for name in "ab":
        write_images(folder / "data" / name)
    write_willow(folder / "willow")
    (folder / "toy.py").write_text(CONFIG)
    return "toy.py"
