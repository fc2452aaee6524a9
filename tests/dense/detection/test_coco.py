"""What is said before training of annotations and classes that cannot be right."""

import json

import pytest
from torch import nn

pytest.importorskip("mmdet")

from mmdet.datasets import CocoDataset
from mmengine.registry import DefaultScope

from dense.detection.coco import check_annotations, check_classes
from pointsuite.engine.errors import UsageError
from pointsuite.engine.runner.preflight import CHECKS, PreflightHook

from .coco_toy import CLASSES, write_coco


def detector(num_classes):
    head = nn.Identity()
    head.num_classes = num_classes
    return nn.ModuleDict({"bbox_head": head})


def read(folder, classes):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return CocoDataset(
            data_root=str(folder),
            ann_file="instances.json",
            data_prefix={"img": "images/"},
            metainfo={"classes": classes},
        )


def test_classes_by_name(tmp_path):
    """Of config, file and head; another order is no mistake, since labels follow the config's names."""
    write_coco(tmp_path)
    check_classes(read(tmp_path, CLASSES), detector(3))
    check_classes(read(tmp_path, CLASSES[::-1]), detector(3))
    with pytest.raises(UsageError, match=r"'gren' is no category of .*instances\.json, .*did you mean green"):
        check_classes(read(tmp_path, ("red", "gren", "blue")), detector(3))
    for count in (1, 80):
        with pytest.raises(UsageError, match=rf"model\.bbox_head\.num_classes: found {count}, wanted 3"):
            check_classes(read(tmp_path, CLASSES), detector(count))
    with pytest.raises(UsageError, match=r"found the string 'red', wanted a tuple, as \('red',\)"):
        check_classes(read(tmp_path, "red"), detector(1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bbox": [float("nan"), 1, 2, 3]}, "annotation 1: bbox: found .*nan.*, wanted finite"),
        ({"bbox": [1, 1, -2, 3]}, "annotation 1: bbox: .* not negative"),
        ({"bbox": [500, 1, 2, 3]}, "annotation 1: bbox: .* outside its image of 96 x 64"),
        ({"bbox": [1, 1, 2]}, "annotation 1: bbox: found"),
        ({"image_id": 77}, "annotation 1: image_id: found 77, which does not exist"),
        ({"category_id": 77}, "annotation 1: category_id: found 77, which does not exist"),
        ({"id": 2}, "annotations: found the id 2 2 times, wanted it once"),
    ],
)
def test_annotations_that_mean_nothing(tmp_path, change, said):
    content = json.loads(write_coco(tmp_path).read_text())
    check_annotations(content, "a.json")
    content["annotations"][0].update(change)
    with pytest.raises(UsageError, match=rf"a\.json: {said}"):
        check_annotations(content, "a.json")


def test_no_annotations(tmp_path):
    content = json.loads(write_coco(tmp_path).read_text())
    with pytest.raises(UsageError, match=r"a\.json: has no annotations"):
        check_annotations({**content, "annotations": []}, "a.json")


def test_a_run_looks_before_its_first_iteration(tmp_path):
    """Also at what wrappers hold."""
    write_coco(tmp_path)
    assert check_classes in CHECKS

    class Holder:
        def __init__(self, **parts):
            vars(self).update(parts)

    repeated = Holder(dataset=read(tmp_path, CLASSES))
    run = Holder(train_loop=Holder(dataloader=Holder(dataset=repeated)), model=detector(2))
    with pytest.raises(UsageError, match=r"bbox_head\.num_classes: found 2, wanted 3"):
        PreflightHook().before_train(run)
