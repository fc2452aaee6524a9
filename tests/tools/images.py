"""Small data sets of images and configs that read them, of each library."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
SEGMENTATION = f"""
_base_ = "{REPOSITORY}/configs/_base_/default_runtime.py"
default_scope = "mmseg"
custom_imports = dict(imports=["dense.segmentation", "tests.dense.classification.toy"])
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", mean=[128] * 3, std=[64] * 3, bgr_to_rgb=True, size=(32, 48)
    ),
    backbone=dict(type="dense.ToyNet"),
    decode_head=dict(
        type="FCNHead", in_channels=8, channels=8, num_convs=1, concat_input=False, num_classes=11, in_index=0
    ),
    test_cfg=dict(mode="whole"),
)
pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
test_dataloader = dict(
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="dense.CamVidDataset", data_root="camvid", split="test", pipeline=pipeline),
)
train_dataloader = test_dataloader
test_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_cfg = dict(type="TestLoop")
visualizer = dict(type="SegLocalVisualizer")
"""
DETECTION = """
default_scope = "mmdet"
model = dict(type="RetinaNet", data_preprocessor=dict(type="DetDataPreprocessor", bgr_to_rgb=True))
train_dataloader = dict(
    batch_size=1,
    dataset=dict(
        type="CocoDataset",
        ann_file="coco/boxes.json",
        data_prefix=dict(img="coco/"),
        metainfo=dict(classes=("thing",), palette=[(255, 0, 255)]),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="PackDetInputs"),
        ],
    ),
)
visualizer = dict(type="DetLocalVisualizer")
"""


def write_segmentation(folder: Path) -> str:
    """Three images: the left half is class 0, the right 1, the lowest rows are void."""
    labels = np.zeros((32, 48), np.uint8)
    labels[:, 24:] = 1
    labels[28:] = 11
    for name in ("test", "testannot"):
        (folder / "camvid" / name).mkdir(parents=True)
    for i in range(3):
        image = np.full((32, 48, 3), (250, 5, 5), np.uint8)  # red
        Image.fromarray(image).save(folder / f"camvid/test/{i}.png")
        Image.fromarray(labels).save(folder / f"camvid/testannot/{i}.png")
    (folder / "segmentation.py").write_text(SEGMENTATION)
    return "segmentation.py"


def write_detection(folder: Path) -> str:
    """One blue image with a box from (10, 20), 30 wide and 25 high."""
    (folder / "coco").mkdir()
    Image.fromarray(np.full((64, 80, 3), (5, 5, 250), np.uint8)).save(folder / "coco/a.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 25], "area": 750, "iscrowd": 0}
    annotations = {
        "images": [{"id": 1, "file_name": "a.png", "height": 64, "width": 80}],
        "annotations": [box],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "coco/boxes.json").write_text(json.dumps(annotations))
    (folder / "detection.py").write_text(DETECTION)
    return "detection.py"
