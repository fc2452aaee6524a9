"""Detectors' data in COCO's format: classes by name, and what is looked at before a run."""

import json

import pytest
import torch
from torch import nn

import dense  # noqa: F401  before mmdet

pytest.importorskip("mmdet")

from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmengine.registry import DefaultScope

from pointsuite.engine.errors import UsageError
from pointsuite.engine.runner.preflight import PreflightHook, look

from . import tiny
from .coco_toy import CLASSES, write_coco
from .networks.relation_detr.test_plugins import CONFIGS as PLUGINS
from .networks.relationnet2 import test_heads as bvr


def detector(num_classes):
    head = nn.Identity()
    head.num_classes = num_classes
    return nn.ModuleDict({"bbox_head": head})


def read(folder, classes=CLASSES, **options):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return CocoDataset(
            data_root=str(folder),
            ann_file="instances.json",
            data_prefix={"img": "images/"},
            metainfo={} if classes is None else {"classes": classes},
            **options,
        )


def test_labels_follow_the_names_of_the_config(tmp_path):
    """In whatever order the file has its categories, in the data set and in the metric."""
    path = write_coco(tmp_path, [1, 1, 1, 1])
    names = {c["id"]: c["name"] for c in json.loads(path.read_text())["categories"]}
    truth = [names[a["category_id"]] for a in json.loads(path.read_text())["annotations"]]
    for classes in (CLASSES, CLASSES[::-1], ("green", "red", "blue")):
        data = read(tmp_path, classes)
        found = [classes[data.get_data_info(i)["instances"][0]["bbox_label"]] for i in range(4)]
        assert found == truth
        metric = CocoMetric(ann_file=str(path))
        assert [names[i] for i in metric._coco_api.get_cat_ids(cat_names=classes)] == list(classes)


def test_classes_by_name(tmp_path):
    """Of config and file while the data set is built, of data set and heads before the run."""
    write_coco(tmp_path)
    with pytest.raises(UsageError, match=r"'gren' is no category of .*instances\.json, .*did you mean green"):
        read(tmp_path, ("red", "gren", "blue"))
    with pytest.raises(UsageError, match=r"'person' is no category of .*, which has red, green, blue"):
        read(tmp_path, None)
    with pytest.raises(UsageError, match=r"found the string 'red', wanted a tuple, as \('red',\)"):
        read(tmp_path, "red")
    with pytest.raises(UsageError, match=r"classes: found 'red' twice"):
        read(tmp_path, ("red", "red"))
    (line, *_) = look("train", read(tmp_path), detector(3))
    assert line == "train data: 4 samples of CocoDataset, 3 classes, as bbox_head has: red, green, blue"
    for stage in ("train", "val", "test"):
        for count in (1, 80):
            said = rf"model\.bbox_head\.num_classes: found {count}, wanted 3, the classes of the {stage} data"
            with pytest.raises(UsageError, match=said):
                look(stage, read(tmp_path), detector(count))


def test_classes_of_two_data_sets(tmp_path):
    write_coco(tmp_path)
    with pytest.raises(
        UsageError, match=r"val data: found the classes blue, green, red, .* order of training"
    ):
        look("val", read(tmp_path, CLASSES[::-1]), detector(3), CLASSES)
    lines = look("test", read(tmp_path), detector(3), ("red", "green", "blu"))
    assert lines[0] == "test data: class 2 is 'blue', where training had 'blu'; did you mean blu?"


@pytest.mark.parametrize("name", ["relation_detr", *PLUGINS, *bvr.DETECTORS])
def test_heads_of_detectors(tmp_path, name):
    """One-stage, two-stage and with queries."""
    if name in bvr.DETECTORS:
        model = bvr.build(name)
    else:
        model = tiny.build(tiny.read_model(*PLUGINS.get(name, ("relation-detr_r50_8xb2-12e_coco.py",))))
    write_coco(tmp_path)
    with pytest.raises(UsageError, match=r"model\.\S*head\S*\.num_classes: found \d+, wanted 2, the classes"):
        look("train", read(tmp_path, CLASSES[:2]), model)


@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn", "dino", "mask_rcnn", "fcos", "cascade_rcnn"])
def test_heads_of_mmdetection(tmp_path, name):
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.registry import MODELS

    files = {
        "retinanet": "retinanet/retinanet_r50_fpn_1x_coco",
        "faster_rcnn": "faster_rcnn/faster-rcnn_r50_fpn_1x_coco",
        "mask_rcnn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco",
        "cascade_rcnn": "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco",
        "fcos": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco",
        "dino": "dino/dino-4scale_r50_8xb2-12e_coco",
    }
    (tmp_path / "config.py").write_text(f'_base_ = "mmdet::{files[name]}.py"\n')
    cfg = Config.fromfile(tmp_path / "config.py").model
    write_coco(tmp_path)
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        model = MODELS.build(cfg)
    with pytest.raises(UsageError, match=r"model\.\S*head\S*\.num_classes: found 80, wanted 3"):
        look("train", read(tmp_path), model)


def test_training_without_boxes(tmp_path):
    """Also where all boxes are crowds; tests are told."""
    for images in ([0, 0], [0, [{"bbox": [4, 4, 60, 40], "iscrowd": 1}]]):
        write_coco(tmp_path, images)
        with pytest.raises(UsageError, match=r"instances\.json: found no annotations of red, green, blue"):
            look("train", read(tmp_path), detector(3))
        assert any("no boxes" in line for line in look("test", read(tmp_path), detector(3)))
    write_coco(tmp_path, [[{"bbox": [4, 4, 60, 40], "category_id": 11}]])
    assert "train data: no box of red, blue" in look("train", read(tmp_path), detector(3))


def test_images_that_are_missing_or_of_another_size(tmp_path):
    path = write_coco(tmp_path)
    content = json.loads(path.read_text())
    content["images"][2]["width"] = 97
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"2\.png: is 96 x 64 pixels, wanted 97 x 64 as its entry"):
        look("train", read(tmp_path), detector(3))
    (tmp_path / "images/1.png").unlink()
    with pytest.raises(UsageError, match=r"val data: .*images/1\.png: no such file"):
        look("val", read(tmp_path), detector(3))


class Holder:
    def __init__(self, **parts):
        vars(self).update(parts)


def test_a_run_looks_before_its_first_iteration(tmp_path):
    """Also at what wrappers hold, at validation, and at the classes of the weights that are tested."""
    write_coco(tmp_path)
    right, wrong = (
        Holder(dataloader=Holder(dataset=Holder(dataset=read(tmp_path, c)))) for c in (CLASSES, CLASSES[::-1])
    )
    with pytest.raises(UsageError, match=r"bbox_head\.num_classes: found 2, wanted 3"):
        PreflightHook().before_train(Holder(train_loop=right, model=detector(2)))
    with pytest.raises(UsageError, match="val data: found the classes blue, green, red"):
        PreflightHook().before_train(Holder(train_loop=right, val_loop=wrong, model=detector(3)))
    hook = PreflightHook()
    hook.after_load_checkpoint(None, {"meta": {"dataset_meta": {"CLASSES": CLASSES}}})
    hook.before_test(Holder(test_loop=right, model=detector(3)))
    hook.told.clear()
    with pytest.raises(UsageError, match="test data: found the classes blue, green, red"):
        hook.before_test(Holder(test_loop=wrong, model=detector(3)))
