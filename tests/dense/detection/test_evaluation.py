"""tools/test.py on detections that are known: COCO's metric, its crowds, and pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dense  # noqa: F401  before mmcv

pytest.importorskip("mmdet")

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.tools.load import load_tool

from .coco_toy import CLASSES, CROWD, DROPPED, SIZE, TAKEN, write_coco

BASES = Path(__file__).parents[3] / "configs/_base_"
CONFIG = f"""
_base_ = ["{BASES}/datasets/pennfudan.py", "{BASES}/runtimes/mmdet.py"]
custom_imports = dict(imports=["dense.detection", "tests.dense.detection.oracle"])
model = dict(
    type="dense.OracleDetector",
    data_preprocessor=dict(type="DetDataPreprocessor", mean=[0] * 3, std=[1] * 3, pad_size_divisor=32),
)
train_dataloader = val_dataloader = val_evaluator = None
test_dataloader = dict(
    batch_size=2,
    dataset=dict(ann_file="instances.json", metainfo=dict(_delete_=True, classes={CLASSES})),
)
test_cfg = dict(type="TestLoop")
"""
STATS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")


def run(folder, *options, argv=()):
    """Metrics of tools/test.py, None where there are none."""
    (folder / "config.py").write_text(CONFIG)
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, folder / "weights.pth")
    work = folder / "work"
    options = [f"data_root={folder}", f"experiment_name={folder.name}", *options]
    config, weights = (str(folder / name) for name in ("config.py", "weights.pth"))
    load_tool("test").main([config, weights, "--work-dir", str(work), *argv, "--cfg-options", *options])
    (log,) = [path for path in work.rglob("*.json") if path.parent.parent == work]
    metrics = json.loads(log.read_text().splitlines()[-1])
    return [metrics.get(f"coco/bbox_{name}") for name in STATS]


def evaluate(annotations, detections):
    """The same by pycocotools alone."""
    truth = COCO(str(annotations))
    evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
    evaluation.params.maxDets = [100, 300, 1000]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"]  # (overlaps, recalls, classes, areas, most detections)
    parts = [precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1]]
    parts += [precision[..., i, -1] for i in (1, 2, 3)]
    return [round(float(p[p > -1].mean()), 3) if (p > -1).any() else -1 for p in parts]


def test_perfect_detections(tmp_path):
    """AP is 1, also with images without objects and boxes that the reader drops; areas not there are -1."""
    write_coco(tmp_path, [3, 0, list(TAKEN.values()), [DROPPED["flat"]], 2])
    found = run(tmp_path)
    assert found[:3] == [1, 1, 1] and set(found) <= {1, -1}


@pytest.mark.parametrize("images", [[0, 0], [0, [CROWD]]])
def test_no_objects(tmp_path, images):
    """There is no AP, which pycocotools writes as -1, of what is found none the less."""
    write_coco(tmp_path, images)
    assert run(tmp_path, "model.alarms=[[8,8,40,30]]") == [-1] * len(STATS)


def test_nothing_found(tmp_path, capfd):
    """MMDetection gives no numbers then, and says why; the run goes on."""
    write_coco(tmp_path, [0, 0])
    assert run(tmp_path) == [None] * len(STATS)
    said = capfd.readouterr()
    assert "results of the whole dataset is empty" in said.out + said.err


@pytest.mark.parametrize("shift", [2.0, 6.0])
def test_the_numbers_of_pycocotools(tmp_path, shift):
    path = write_coco(tmp_path, [3, 0, 2, 4, 1])
    out = tmp_path / "found"
    options = (
        f"model.shift={shift}",
        f"test_evaluator.ann_file={path}",
        f"test_evaluator.outfile_prefix={out}",
    )
    found = run(tmp_path, *options)
    detections, seen = [], {}
    for annotation in json.loads(path.read_text())["annotations"]:
        (x, y, w, h), image = annotation["bbox"], annotation["image_id"]
        number = seen[image] = seen.get(image, -1) + 1
        keys = {key: annotation[key] for key in ("image_id", "category_id")}
        detections.append({**keys, "bbox": [x + shift, y, w, h], "score": 0.95 - 0.05 * number})
    assert found == evaluate(path, detections)
    assert 0.05 < found[0] < 0.95
    # outfile_prefix keeps the detections, in COCO's format
    kept = json.loads((tmp_path / "found.bbox.json").read_text())
    assert len(kept) == len(detections) == 10 and evaluate(path, kept) == found


@pytest.mark.parametrize("with_file", [False, True])
def test_what_is_found_in_a_crowd_does_not_count(tmp_path, with_file):
    """Neither as right nor as wrong, whether the metric reads the file or the samples."""
    alarm = "model.alarms=[[8,8,40,30]]"  # within the crowd, of the highest score
    box = {"bbox": [70, 10, 20, 40]}
    for name, boxes in (("crowd", [CROWD, box]), ("none", [box])):
        path = write_coco(tmp_path / name, [boxes])
        options = [f"test_evaluator.ann_file={path}"] if with_file else []
        found = run(tmp_path / name, alarm, *options)
        assert found[0] == (1 if name == "crowd" else 0.5)
        report = (tmp_path / name / "work/report.html").read_text()
        assert ("1 of 1 found, 1 found where none is" in report) == (name == "none")
        assert report.count("<img ") == (name == "none")


def test_pictures(tmp_path):
    """--show-dir: what is annotated on the left, what is found on the right; without objects, the image."""
    path = write_coco(tmp_path, [2, 0, [TAKEN["corner"]]])
    run(tmp_path, argv=["--show-dir", str(tmp_path / "pictures")])
    pictures = sorted((tmp_path / "pictures").rglob("*.png"))
    assert len(pictures) == 3
    annotations = json.loads(path.read_text())["annotations"]
    for i, picture in enumerate(pictures):
        drawn = np.asarray(Image.open(picture).convert("RGB")).astype(int)
        plain = np.asarray(Image.open(tmp_path / f"images/{i}.png")).astype(int)
        width, height = SIZE
        assert drawn.shape[0] > height and drawn.shape[1:] == (2 * width, 3)
        drawn = drawn[-height:]  # below its caption
        boxes = [annotation["bbox"] for annotation in annotations if annotation["image_id"] == i]
        for half in (drawn[:, :width], drawn[:, width:]):
            changed = (np.abs(half - plain) > 20).any(2)
            assert changed.any() == bool(boxes)
            for x, y, w, h in boxes:  # each has its left and its lower edge
                assert changed[y : y + h, max(x - 1, 0) : x + 2].any(1).mean() > 0.7
                assert changed[y + h - 2 : y + h + 2, x : x + w].any(0).mean() > 0.7
