"""What is hard in real annotations: no objects, crowds, boxes on and beyond the border or without area."""

import pytest
import torch

import dense  # noqa: F401  before mmcv

pytest.importorskip("mmdet")

from mmdet.datasets import CocoDataset
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope

from . import tiny
from .coco_toy import CLASSES, CROWD, DROPPED, SIZE, TAKEN, write_coco
from .networks.relation_detr.test_plugins import CONFIGS as PLUGINS
from .networks.relationnet2 import test_heads as bvr

DETECTORS = {
    "RelationDETR": lambda: tiny.build(tiny.read_model("relation-detr_r50_8xb2-12e_coco.py")),
    **{name: lambda name=name: tiny.build(tiny.read_model(*PLUGINS[name])) for name in PLUGINS},
    **{name.split("_")[0]: lambda name=name: bvr.build(name) for name in bvr.DETECTORS},
}
BORDER = [TAKEN["corner"], TAKEN["other corner"], TAKEN["whole"], TAKEN["beyond"]]


def read(folder, images, *, filter_cfg=None, flip=0.0, scale=SIZE):
    write_coco(folder, images)
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "Resize", "scale": scale},
        {"type": "RandomFlip", "prob": flip},
        {"type": "PackDetInputs"},
    ]
    with DefaultScope.overwrite_default_scope("mmdet"):
        return CocoDataset(
            data_root=str(folder),
            ann_file="instances.json",
            data_prefix={"img": "images/"},
            metainfo={"classes": CLASSES},
            filter_cfg=filter_cfg,
            pipeline=pipeline,
            serialize_data=False,
        )


def step(detector, samples):
    """The loss of a batch, after a backward pass that must leave finite gradients."""
    torch.manual_seed(1)
    data = detector.data_preprocessor(pseudo_collate(samples), training=True)
    loss, parts = detector.parse_losses(detector(**data, mode="loss"))
    detector.zero_grad()
    loss.backward()
    assert loss.isfinite() and all(torch.as_tensor(part).isfinite().all() for part in parts.values())
    gradients = [p.grad for p in detector.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    return loss.detach()


@pytest.mark.parametrize("name", DETECTORS)
def test_a_training_step(tmp_path, name):
    """All empty; some empty; only crowds, which count as nothing; boxes on the border and beyond."""
    torch.manual_seed(0)
    detector = DETECTORS[name]().train()
    data = read(tmp_path, [0, 0, 3, [CROWD], BORDER])
    step(detector, [data[0], data[1]])
    step(detector, [data[0], data[2]])
    step(detector, [data[3], data[3]])
    before = [parameter.detach().clone() for parameter in detector.parameters()]
    assert step(detector, [data[4], data[2]]) > 0
    torch.optim.SGD(detector.parameters(), 1e-4).step()
    changed = [not torch.equal(*pair) for pair in zip(before, detector.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2
    assert all(parameter.isfinite().all() for parameter in detector.parameters())


@pytest.mark.parametrize("name", DETECTORS)
def test_crowds_are_no_targets(tmp_path, name):
    """With a crowd beside it, a box costs what it costs alone."""
    torch.manual_seed(0)
    detector = DETECTORS[name]().eval()  # norms and dropout, which would differ; the loss is that of training
    for part in (detector, getattr(detector, "bbox_head", None), getattr(detector, "roi_head", None)):
        if part is not None:
            part.training = True
    box = {"bbox": [30, 20, 30, 30]}
    data = read(tmp_path, [[box], [CROWD, box]])
    alone, crowded = data[0], data[1]
    assert len(crowded["data_samples"].ignored_instances) == 1
    crowded["inputs"] = alone["inputs"]
    assert step(detector, [crowded]) == step(detector, [alone])


def test_what_the_reader_drops(tmp_path):
    data = read(tmp_path, [[{**box}] for box in (*DROPPED.values(), *TAKEN.values(), CROWD)])
    counts = [len(data[i]["data_samples"].gt_instances) for i in range(len(data))]
    assert counts == [0] * len(DROPPED) + [1] * len(TAKEN) + [0]
    number = len(DROPPED) + list(TAKEN).index("beyond")
    assert data.get_data_info(number)["instances"][0]["bbox"] == [-10, -5, 30, 25]
    assert data[number]["data_samples"].gt_instances.bboxes.tensor.tolist() == [[0, 0, 30, 25]]  # resized
    crowd = data[len(data) - 1]["data_samples"].ignored_instances
    assert len(crowd) == 1 and crowd.labels.tolist() == [0]


def test_files_that_cannot_be_read(tmp_path):
    data = read(tmp_path, [1, 1])
    (tmp_path / "images/0.png").write_text("not an image")
    with pytest.raises(OSError, match=r"images/0\.png: not an image that can be read"):
        data[0]
    (tmp_path / "images/1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"images/1\.png"):
        data[1]


def test_images_without_objects_are_left_out_on_demand(tmp_path):
    images = [0, 2, [CROWD], [DROPPED["flat"]]]
    assert len(read(tmp_path, images)) == 4
    left = read(tmp_path, images, filter_cfg={"filter_empty_gt": True, "min_size": 32})
    # an image all of whose annotations are dropped stays: MMDetection asks the file, not what it read
    assert [left[i]["data_samples"].img_id for i in range(len(left))] == [1, 2, 3]
    assert len(read(tmp_path, images, filter_cfg={"min_size": SIZE[1] + 1})) == 0


def test_flipped_boxes_stay_on_their_objects(tmp_path):
    """At the border, too: a box of the rightmost pixels becomes one of the leftmost."""
    data = read(tmp_path, [[TAKEN["other corner"]]], flip=1.0)
    sample = data[0]
    assert sample["data_samples"].gt_instances.bboxes.tensor.tolist() == [[0, SIZE[1] - 9, 12, SIZE[1]]]
    red = sample["inputs"][2] == 250  # blue, green, red
    assert red[-9:, :12].all() and red.sum() == 9 * 12
