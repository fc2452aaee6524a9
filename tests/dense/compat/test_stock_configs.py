"""Twenty configs that mmdet and mmseg ship, run as they are but for size, without compiled operators."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample
from torch.nn.modules.batchnorm import _BatchNorm

# of each kind one of its small variants, drawn once by random.Random(20)
DETECTORS = [
    "carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py",
    "dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py",
    "dcn/faster-rcnn_r50_fpn_dpool_1x_coco.py",
    "dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py",
    "deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py",
    "detectors/cascade-rcnn_r50-sac_1x_coco.py",
    "dino/dino-4scale_r50_8xb2-24e_coco.py",
    "dyhead/atss_r50-caffe_fpn_dyhead_1x_coco.py",
    "faster_rcnn/faster-rcnn_r50_fpn_soft-nms_1x_coco.py",
    "fcos/fcos_r50-caffe_fpn_gn-head_4xb4-1x_coco.py",
    "guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py",
    "mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
    "mask_rcnn/mask-rcnn_r50_fpn_ms-poly-3x_coco.py",
    "point_rend/point-rend_r50-caffe_fpn_ms-3x_coco.py",
    "reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py",
    "rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
]
SEGMENTORS = [
    "ccnet/ccnet_r50-d8_4xb2-80k_cityscapes-769x769.py",
    "mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py",
    "point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py",
    "psanet/psanet_r50-d8_4xb4-40k_voc12aug-512x512.py",
]
SIZE = (96, 160)
AT_MOST = {
    "max_per_img": 10,
    "max_per_image": 10,
    "nms_pre": 50,
    "num_layers": 2,
    "num_queries": 20,
    "score_thr": 0,
}


def shrink(node):
    """Few proposals, queries and layers, no threshold, no download, one process."""
    if isinstance(node, dict):
        for key, most in AT_MOST.items():
            if key in node:
                node[key] = min(node[key], most)
        for key in node.keys() & {"init_cfg", "pretrained"}:
            node[key] = None
        if node.get("type") == "SyncBN":
            node["type"] = "BN"
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ():
        shrink(child)


def build(library, config, initialise=True):
    torch.manual_seed(0)
    config = Config.fromfile(Path(import_module(library).__file__).parent / ".mim" / "configs" / config)
    shrink(config.model)
    init_default_scope(library)
    model = MODELS.build(config.model)
    if initialise:  # some have parameters that hold anything before
        model.init_weights()
    model.eval()
    for module in model.modules():  # statistics of random weights are anyone's guess
        if isinstance(module, _BatchNorm) and library == "mmdet":
            module.train()
    return model


def make_batch(sample):
    names = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
    sample.set_metainfo({**dict.fromkeys(names, SIZE), "scale_factor": (1.0, 1.0), "img_id": 0})
    return {"inputs": [torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)], "data_samples": [sample]}


@torch.no_grad()
@pytest.mark.parametrize("config", DETECTORS)
def test_detector(config):
    found = build("mmdet", config).test_step(make_batch(DetDataSample()))[0].pred_instances
    assert 0 < len(found) <= 10
    assert found.bboxes.isfinite().all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    if "masks" in found:
        assert found.masks.shape == (len(found), *SIZE)


@torch.no_grad()
@pytest.mark.parametrize("config", SEGMENTORS)
def test_segmentor(config):
    found = build("mmseg", config).test_step(make_batch(SegDataSample()))[0]
    assert found.pred_sem_seg.data.shape == (1, *SIZE)
    logits = found.seg_logits.data.flatten(1)
    assert logits.isfinite().all()
    assert (logits.std(1) > 0).all()


@pytest.mark.parametrize(
    ("config", "layer"),
    [
        ("dcnv2/mask-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py", "backbone.layer4.2.conv2.conv_offset"),
        ("carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py", "neck.upsample_modules.0.content_encoder"),
    ],
)
def test_training(config, layer):
    """The loss reaches weights that lie behind an operator; initial ones of 0 would let nothing through."""
    model = build("mmdet", config, initialise=False)
    sample = DetDataSample()
    boxes = torch.tensor([[10.0, 12.0, 70.0, 80.0], [60.0, 20.0, 150.0, 90.0]])
    masks = BitmapMasks(torch.ones(2, *SIZE).byte().numpy(), *SIZE)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1, 2]), masks=masks)
    batch = model.data_preprocessor(make_batch(sample), training=True)
    loss, _ = model.parse_losses(model(**batch, mode="loss"))
    loss.backward()
    assert loss.isfinite()
    grad = model.get_submodule(layer).weight.grad
    assert grad.isfinite().all() and grad.any()
