"""Penn-Fudan: from the published folder to boxes, masks and an evaluation."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

import dense  # noqa: F401  before mmcv

pytest.importorskip("mmdet")

from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from pycocotools import mask as coco_mask

from dense.detection import datasets as pennfudan
from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.tools.load import load_tool

from .tiny import CONFIGS

WIDTH, HEIGHT = 60, 40


@pytest.fixture
def published(tmp_path):
    """Six images of two people, one behind the other; the last has none."""
    root = tmp_path / "PennFudanPed"
    (root / "PNGImages").mkdir(parents=True)
    (root / "PedMasks").mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
        if i < 5:
            numbers[5:30, i : i + 20] = 1
            numbers[10:40, i + 15 : i + 25] = 3  # 2 is missing
        Image.fromarray(pixels).save(root / "PNGImages" / f"Ped{i}.png")
        Image.fromarray(numbers).save(root / "PedMasks" / f"Ped{i}_mask.png")
    return root


def convert(root, out, allow_partial=True):
    return pennfudan.prepare(Namespace(source=root, out=out, allow_partial=allow_partial, workers=1))


def test_conversion(published, tmp_path):
    summary = convert(published, tmp_path / "out")
    assert "train: 4 images, 8 people" in summary and "val: 2 images, 2 people" in summary
    assert f"data_root={tmp_path / 'out'}" in summary
    train, val = (json.loads((tmp_path / f"out/instances_{s}.json").read_text()) for s in ("train", "val"))
    assert [image["file_name"] for image in val["images"]] == ["Ped0.png", "Ped5.png"]
    assert val["images"][0] == {"id": 1, "file_name": "Ped0.png", "width": WIDTH, "height": HEIGHT}
    people = train["annotations"] + val["annotations"]
    assert sorted(person["id"] for person in people) == list(range(1, 11))
    front, behind = val["annotations"][1], val["annotations"][0]
    assert front["bbox"] == [15, 10, 10, 30] and front["area"] == 300
    assert behind["bbox"] == [0, 5, 20, 25] and behind["area"] == 20 * 25 - 5 * 20
    for person in people:
        runs = person["segmentation"]
        mask = coco_mask.decode(coco_mask.frPyObjects(runs, *runs["size"]))
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        assert mask.sum() == person["area"] and mask.shape == (HEIGHT, WIDTH)
        assert person["bbox"][:2] == [columns[0], rows[0]]
    copied = (tmp_path / "out/images/Ped3.png").read_bytes()
    assert copied == (published / "PNGImages/Ped3.png").read_bytes()


def test_a_mask_that_begins_in_the_corner():
    mask = np.zeros((3, 2), bool)
    mask[:2, 0] = True
    assert pennfudan._describe(mask)["segmentation"]["counts"] == [0, 2, 4]


def test_the_config_reads_and_evaluates_it(published, tmp_path):
    convert(published, tmp_path / "out")
    config = Config.fromfile(CONFIGS / "relation-detr_r50_pennfudan.py")
    with DefaultScope.overwrite_default_scope("mmdet"):
        loaders = (config.train_dataloader, config.val_dataloader)
        train, val = (DATASETS.build({**x.dataset, "data_root": str(tmp_path / "out")}) for x in loaders)
        metric = METRICS.build(config.val_evaluator)
    assert len(train) == 4 and len(val) == 2
    assert len(train[0]["data_samples"].gt_instances) == 2
    metric.dataset_meta = val.metainfo
    for i in range(len(val)):
        sample = val[i]["data_samples"].to_dict()
        boxes = torch.tensor([person["bbox"] for person in sample["instances"]]).reshape(-1, 4)
        count = len(boxes)
        found = {"bboxes": boxes, "labels": torch.zeros(count).long(), "scores": torch.rand(count)}
        metric.process({}, [{**sample, "pred_instances": found}])
    assert metric.evaluate(len(val))["coco/bbox_mAP"] == 1


def test_a_run_of_the_config(published, tmp_path, capfd):
    """From the command line: two steps, an evaluation, and a test of what was saved."""
    convert(published, tmp_path / "out")
    options = [
        f"data_root={tmp_path / 'out'}",
        "model.num_queries=12",
        "model.hybrid_queries=20",
        "model.test_cfg.max_per_img=10",
        "model.backbone.depth=18",
        "model.backbone.stem_channels=8",
        "model.backbone.base_channels=8",
        "model.neck.in_channels=[16,32,64]",
        "model.encoder.num_layers=1",
        "model.decoder.num_layers=2",
        "model.encoder.layer_cfg.ffn_cfg.feedforward_channels=32",
        "model.decoder.layer_cfg.ffn_cfg.feedforward_channels=32",
        "train_dataloader.dataset.pipeline.3.scales=[(64,48)]",
        "val_dataloader.dataset.pipeline.1.scale=(64,48)",
        "test_dataloader.dataset.pipeline.1.scale=(64,48)",
        "train_cfg.max_iters=2",
        "train_cfg.val_interval=2",
    ]
    config = str(CONFIGS / "relation-detr_r50_pennfudan.py")
    for tool, argv in (("train", []), ("test", [str(tmp_path / "train")])):
        argv = [config, *argv, "--work-dir", str(tmp_path / tool), "--cfg-options", f"experiment_name={tool}"]
        load_tool(tool).main([*argv, *options])
        assert "coco/bbox_mAP: " in capfd.readouterr().out


def test_errors(published, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"PNGImages: found 6 images, wanted 170 .*offered at http"):
        convert(published, tmp_path / "out", allow_partial=False)
    with pytest.raises(FileNotFoundError, match="found 0 images"):
        convert(tmp_path, tmp_path / "out")
    Image.new("L", (3, 4)).save(published / "PedMasks/Ped1_mask.png")
    with pytest.raises(
        ValueError, match=r"Ped1_mask.png: is \(3, 4\) pixels, wanted \(60, 40\) as its image"
    ):
        convert(published, tmp_path / "out")
    (published / "PedMasks/Ped1_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match="Ped1_mask.png"):
        convert(published, tmp_path / "out")
