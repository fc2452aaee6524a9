"""What a detector finds in an image does not depend on the images beside it: every one that is configured."""

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config

from dense.base.configured import FOLDERS, build_configured
from dense.detection import DetInferencer

from .tiny import spread

OURS = (
    "davit/davit-t_mask-rcnn_coco.py",
    "relation_detr/dino_r18_pennfudan.py",
    "relation_detr/relation-dab-detr_r50_8xb2-50e_coco.py",
    "relation_detr/relation-deformable-detr_r50_16xb2-50e_coco.py",
    "relation_detr/relation-detr_r50_8xb2-12e_coco.py",
    "relation_detr/relation-dino_r50_8xb2-12e_coco.py",
    "relationnet2/relationnet2-faster-rcnn_r50_8xb2-1x_coco.py",
    "relationnet2/relationnet2-retinanet_r18_pennfudan.py",
    "relationnet2/relationnet2-retinanet_r50_8xb2-1x_coco.py",
    "relationnet2/retinanet_r18_pennfudan.py",
)
MMDETECTIONS = (
    "mmdet::atss/atss_r50_fpn_1x_coco.py",
    "mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py",
    "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
)

TIE = 1e-4  # between scores that rounding cannot tell apart
QUERIES, MOST = 20, 100  # three scores a query, all of which are returned; of other detectors at most so many


def prepare(cfg):
    """Small images, and nothing found is too weak to be returned."""
    for step in cfg.test_dataloader.dataset.pipeline:
        if step["type"].endswith("Resize"):
            step["scale"] = (96, 64)
    change(cfg.model, {"score_thr": 0.0, "num_queries": QUERIES, "hybrid_queries": QUERIES})
    if "num_queries" in str(cfg.model):
        change(cfg.model, {"max_per_img": 3 * QUERIES})
    return cfg


def change(node, values):
    """Set keys wherever they are in a config."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if key in values:
            node[key] = values[key]
        elif isinstance(value, dict | list):
            change(value, values)


def check_all_in(found, others):
    """Each box is among the others, but for ties with the last one that is returned."""
    boxes, other = (np.array(p["bboxes"]) for p in (found, others))
    scores, labels = np.array(found["scores"]), np.array(found["labels"])
    distance = np.abs(boxes[:, None] - other).max(2)  # pixels
    distance[labels[:, None] != np.array(others["labels"])] = np.inf
    distance[np.abs(scores[:, None] - np.array(others["scores"])) > TIE] = np.inf
    sure = scores > (scores.min() + TIE if len(scores) == MOST else 0)
    assert sure.any() and distance[sure].min(1).max() < 0.01


@pytest.mark.parametrize("name", [*OURS, *MMDETECTIONS])
def test_alone_and_beside_others(name, tmp_path):
    if name.startswith("mmdet::"):
        cfg = get_config(name)
    else:
        cfg = Config.fromfile(next(folder / name for folder in FOLDERS if (folder / name).is_file()))
    cfg = prepare(cfg)
    cfg.dump(tmp_path / "config.py")
    torch.manual_seed(0)
    network = build_configured(tmp_path / "config.py", MODELS, num_classes=3)
    spread(network)
    network.cfg.test_dataloader.dataset.metainfo = {"classes": ("a", "b", "c")}
    inferencer = DetInferencer(network, device="cpu")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in ((64, 96), (96, 56), (64, 96))]
    together = inferencer(images, batch_size=3)["predictions"]
    for image, found in zip(images, together, strict=True):
        (alone,) = inferencer(image)["predictions"]
        assert len(found["scores"]) > 0
        np.testing.assert_allclose(found["scores"], alone["scores"], atol=TIE)
        check_all_in(found, alone)
        check_all_in(alone, found)
