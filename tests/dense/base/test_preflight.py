"""Training by the command line with configs of the libraries and data that do not fit: one line each."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import BaseDataset
from PIL import Image

import dense  # noqa: F401  before mmcv
from dense.base.preflight import read_infos
from pointsuite.engine import errors
from tests.dense.detection.coco_toy import write_coco
from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.tools.load import load_tool

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

train, test = load_tool("train"), load_tool("test")
DETECTOR = """
_base_ = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
model = dict(
    backbone=dict(init_cfg=None, base_channels=8, stem_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=8),
    bbox_head=dict(num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1),
)
data = dict(
    data_root="ROOT/",
    ann_file="instances.json",
    data_prefix=dict(img="images/"),
    metainfo=dict(classes=("red", "green", "blue")),
)
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(
        **data,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="Resize", scale=(96, 64), keep_ratio=True),
            dict(type="PackDetInputs"),
        ],
    ),
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=data)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="ROOT/instances.json")
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
visualizer = dict(vis_backends=[])
"""
SEGMENTOR = """
_base_ = "mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py"
norm = dict(type="BN")
model = dict(
    data_preprocessor=dict(size=(32, 32)),
    pretrained=None,
    backbone=dict(base_channels=8, stem_channels=8, norm_cfg=norm),
    decode_head=dict(num_classes=3, in_channels=64, channels=8, norm_cfg=norm),
    auxiliary_head=dict(num_classes=3, in_channels=32, channels=8, norm_cfg=norm),
)
data = dict(
    _delete_=True,
    type="BaseSegDataset",
    data_root="ROOT",
    data_prefix=dict(img_path="images", seg_map_path="masks"),
    metainfo=dict(classes=("a", "b", "c")),
    pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")],
)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=data)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=data)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
visualizer = dict(vis_backends=[])
"""


def write_masks(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(folder / f"images/{i}.jpg")
        Image.fromarray(rng.integers(0, 3, (32, 32)).astype(np.uint8)).save(folder / f"masks/{i}.png")


def run(tool, folder, text, *options, argv=()):
    """The command; what it says of an error."""
    config = folder / "config.py"
    config.write_text(text.replace("ROOT", str(folder)))
    argv = [str(config), *argv, "--work-dir", str(folder / "run"), "--cfg-options"]
    try:
        tool.main([*argv, f"experiment_name={folder.name}_{tool.__name__}", *options])
    except Exception as error:
        line, complete = errors.explain(error, {}, str(config))
        assert complete, line
        return line
    return ""


def change(folder, edit):
    path = folder / "instances.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def cut(path):
    path.write_bytes(path.read_bytes()[:-300])


def test_a_detector_is_trained_and_told_about(tmp_path, capfd):
    """On annotations without ``area`` and ``iscrowd``; then tested with other classes."""
    write_coco(tmp_path, (2, 1, 1, 1))
    change(tmp_path, lambda c: [entry.pop(key) for entry in c["annotations"] for key in ("area", "iscrowd")])
    assert run(train, tmp_path, DETECTOR) == ""
    said = capfd.readouterr().out
    assert "train data: 4 samples of CocoDataset, 3 classes, as bbox_head has: red, green, blue" in said
    assert "val data: 4 images looked at, and their annotations are of their size" in said
    weights = [str(tmp_path / "run/epoch_1.pth")]
    assert run(test, tmp_path, DETECTOR, argv=weights) == ""
    said = run(test, tmp_path, DETECTOR, "data.metainfo.classes=('blue','green','red')", argv=weights)
    assert "test data: found the classes blue, green, red, wanted them in the order of training" in said


@pytest.mark.parametrize(
    ("damage", "options", "said"),
    [
        (None, "train_dataloader.dataset.metainfo.classes=('red','gren','blue')", "did you mean green?"),
        (None, "model.bbox_head.num_classes=1", "model.bbox_head.num_classes: found 1, wanted 3"),
        (lambda f: cut(f / "instances.json"), "", "instances.json: found "),
        (lambda f: cut(f / "images/1.png"), "", "images/1.png: not an image that can be read (it ends"),
        (lambda f: change(f, lambda c: c.update(annotations=[])), "", "is empty, wanted at least one sample"),
        (lambda f: write_coco(f, (1,) * 9, name="o.json"), "val_dataloader.dataset.ann_file=o.json",
         "val_evaluator.ann_file: "),
    ],
)  # fmt: skip
def test_a_detector_whose_data_do_not_fit(tmp_path, damage, options, said):
    write_coco(tmp_path)
    if damage is not None:
        damage(tmp_path)
    found = run(train, tmp_path, DETECTOR, *([options] if options else []))
    assert said in found and bool(said) == bool(found)


def each(folder, make):
    for i in range(4):
        path = folder / f"masks/{i}.png"
        Image.fromarray(make(np.array(Image.open(path)))).save(path)


@pytest.mark.parametrize(
    ("damage", "options", "said"),
    [
        (None, "data.metainfo.palette=[[1,2,3]]", ""),
        (None, "model.auxiliary_head.num_classes=2", "model.auxiliary_head.num_classes: found 2, wanted 3"),
        (None, "data.ignore_index=2", "model.decode_head.ignore_index: found 255, wanted 2"),
        (None, "data.img_suffix=.bmp", "is empty, wanted at least one sample"),
        (lambda f: each(f, lambda m: m * 51), "", "found the label 102, wanted 0 to 2"),
        (
            lambda f: each(f, lambda m: (m > 0).astype(np.uint8) * 255),
            "",
            "labels 0, 255 alone, of which 255",
        ),
        (lambda f: each(f, lambda m: np.dstack([m] * 3)), "", "0.png: found a mask of RGB, wanted one label"),
        (lambda f: each(f, lambda m: m[:30]), "", "0.jpg: is 32 x 32 pixels, wanted 32 x 30 as its mask"),
    ],
)
def test_a_segmentor_whose_data_do_not_fit(tmp_path, damage, options, said):
    write_masks(tmp_path)
    if damage is not None:
        damage(tmp_path)
    found = run(train, tmp_path, SEGMENTOR, *([options] if options else []))
    assert said in found and bool(said) == bool(found)


def test_data_sets_that_hold_no_list_are_left_alone():
    data = BaseDataset(lazy_init=True)
    data._fully_initialized = True  # as of clouds, which lie in one array
    assert read_infos(data, 3) == []
