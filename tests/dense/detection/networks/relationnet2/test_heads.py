"""Detectors with the bridge of RelationNet++: losses, predictions, published keys, configs, a run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dense  # noqa: F401  before mmcv

pytest.importorskip("mmdet")

from mmdet.models.dense_heads import ATSSHead, FCOSHead, RetinaHead
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from dense.detection.networks.relationnet2.heads import BVRATSSHead, BVRFCOSHead, BVRRetinaHead, BVRRoIHead
from dense.detection.networks.relationnet2.weights import convert
from tests.parity import packs
from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.tools.load import load_tool

CONFIGS = Path(__file__).parents[5] / "configs/relationnet2"
PACKS = Path(__file__).parents[4] / "parity/packs/relationnet2"
BOXES = torch.tensor([[10.0, 12.0, 90.0, 70.0], [30.0, 5.0, 60.0, 40.0], [-9.0, 50.0, 150.0, 92.0]])
LABELS = torch.tensor([0, 2, 1])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


NORM = {"type": "GN", "num_groups": 4}
NECK = {"in_channels": [8, 16, 32, 64], "out_channels": 16}
OPTIONS = {"base_size": (24, 24), "num_heads": 4, "keypoint_head": {"norm_cfg": NORM}}
DENSE = {"num_classes": 3, "in_channels": 16, "feat_channels": 16, "stacked_convs": 2}
DENSE |= {"norm_cfg": NORM, "bvr": OPTIONS}
ATSS_ANCHORS = {
    "type": "mmdet.AnchorGenerator",
    "ratios": [1.0],
    "octave_base_scale": 8,
    "scales_per_octave": 1,
    "strides": [8, 16, 32, 64, 128],
}
DETECTORS = {
    "relationnet2-retinanet_r50_8xb2-1x_coco.py": {"bbox_head": DENSE, "neck": {**NECK, "norm_cfg": NORM}},
    "relationnet2-fcos_x101-dcn_8xb2-ms-20e_coco.py": {"bbox_head": {**DENSE, "norm_cfg": None}},
    "relationnet2-atss_x101-dcn_8xb2-ms-20e_coco.py": {"bbox_head": DENSE},
    "relationnet2-faster-rcnn_r50_8xb2-1x_coco.py": {
        "rpn_head": {"in_channels": 16, "feat_channels": 16},
        "roi_head": {
            "bvr": OPTIONS,
            "bbox_roi_extractor": {"out_channels": 16},
            "bbox_head": {"num_classes": 3, "in_channels": 16, "fc_out_channels": 32},
        },
        "train_cfg": {"rpn_proposal": {"max_per_img": 30}, "rcnn": {"sampler": {"num": 16}}},
        "test_cfg": {"rpn": {"max_per_img": 20}, "rcnn": {"score_thr": 0.0}},
    },
}


def build(name):
    cfg = Config.fromfile(CONFIGS / name)
    cfg.model.backbone = {"type": "ResNet", "depth": 18, "base_channels": 8}
    cfg.merge_from_dict({"model": {"neck": NECK, **DETECTORS[name]}})
    with DefaultScope.overwrite_default_scope("mmdet"):
        detector = MODELS.build(cfg.model)
        detector.init_weights()
    return detector


def make_batch(*boxes, size=(64, 96)):
    samples = []
    for box in boxes:
        sample = DetDataSample(gt_instances=InstanceData(bboxes=box, labels=LABELS[: len(box)]))
        names = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
        sample.set_metainfo({**dict.fromkeys(names, size), "scale_factor": (1.0, 1.0), "img_id": 0})
        samples.append(sample)
    images = torch.randint(0, 256, (len(boxes), 3, *size), dtype=torch.uint8)
    return {"inputs": list(images), "data_samples": samples}


def head_of(detector):
    return detector.roi_head if hasattr(detector, "roi_head") else detector.bbox_head


def losses_of(detector, batch):
    data = detector.data_preprocessor(batch, training=True)
    return detector(**data, mode="loss")


@pytest.mark.parametrize("name", DETECTORS)
def test_detector(name):
    """A loss step reaches every weight; boxes are found; images may be without boxes."""
    detector = build(name)
    boxes = [BOXES[:2].clamp(0, 64), BOXES[2:].clamp(0, 64)]
    losses = losses_of(detector, make_batch(*boxes))
    assert {"kpt_loss_point_cls", "kpt_loss_point_offset"} <= losses.keys()
    loss, _ = detector.parse_losses(losses)
    loss.backward()
    assert loss.isfinite()
    for key, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        # a key's bias adds the same to all logits of a query
        assert ".bvr." not in f".{key}" or "bias" in key or parameter.grad.any(), key
    torch.optim.SGD(detector.parameters(), 1e-3).step()

    losses = losses_of(detector, make_batch(BOXES[:0], BOXES[:0]))
    assert losses["kpt_loss_point_cls"] == 0 and losses["kpt_loss_point_offset"] == 0
    loss, _ = detector.parse_losses(losses)
    loss.backward()
    assert loss.isfinite()
    loss, _ = detector.parse_losses(losses_of(detector, make_batch(boxes[0], BOXES[:0])))
    assert loss.isfinite()

    detector.eval()
    head = head_of(detector)
    head.test_cfg.score_thr = 0.0
    batch = make_batch(*boxes, size=(80, 72))
    with torch.no_grad():
        found = [sample.pred_instances for sample in detector.test_step(batch)]
        alone = {key: value[1:] for key, value in batch.items()}
        (one,) = [sample.pred_instances for sample in detector.test_step(alone)]
    assert all(0 < len(instances) <= 100 and instances.bboxes.isfinite().all() for instances in found)
    torch.testing.assert_close(one.scores, found[1].scores, rtol=1e-4, atol=1e-6)
    images, samples = torch.randn(1, 3, 64, 64), alone["data_samples"]
    assert all(part is not None for part in detector(images, samples, mode="tensor"))


def silence(bvr):
    """Attention that adds nothing: what comes out is the ReLU of what goes in."""
    for transformer in (bvr.cls_transformer, bvr.reg_transformer):
        for attention in transformer.decoder:
            for parameter in attention.out_proj.parameters():
                torch.nn.init.zeros_(parameter)


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "kind, options",
    [
        (RetinaHead, {}),
        (FCOSHead, {"norm_on_bbox": True, "centerness_on_reg": True}),
        (FCOSHead, {}),
        (ATSSHead, {"anchor_generator": ATSS_ANCHORS}),
    ],
)
def test_silent_bridge_leaves_the_head_as_it_is(kind, options, training):
    bridged = {RetinaHead: BVRRetinaHead, FCOSHead: BVRFCOSHead, ATSSHead: BVRATSSHead}[kind]
    head = bridged(**DENSE, **options).train(training)
    maps = [torch.randn(2, 16, 24 >> i, 32 >> i) for i in range(5)]
    silence(head.bvr)
    *found, points = head(maps)
    assert len(points.logits) == 5
    torch.testing.assert_close(found, list(kind.forward(head, maps)))


@torch.no_grad()
def test_silent_bridge_of_proposals():
    detector = build("relationnet2-faster-rcnn_r50_8xb2-1x_coco.py").eval()
    head, maps = detector.roi_head, [torch.randn(3, 16, 32 >> i, 32 >> i) for i in range(5)]
    boxes = torch.rand(5, 4) * 40 + torch.tensor([0.0, 0.0, 50.0, 50.0])
    rois = torch.cat((torch.tensor([[0.0], [0.0], [0.0], [2.0], [2.0]]), boxes), 1)  # none of image 1
    bridged = head._bbox_forward(maps, rois)
    alone = head._bbox_forward([x[2:] for x in maps], rois[3:] * torch.tensor([0.0, 1, 1, 1, 1]))
    silence(head.bvr)
    found, wanted = head._bbox_forward(maps, rois), StandardRoIHead._bbox_forward(head, maps, rois)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value)
        torch.testing.assert_close(bridged[key][3:], alone[key])
    assert not torch.allclose(bridged["cls_score"], found["cls_score"])


def test_initial_weights():
    """As published, whether init_weights is called (as a runner does) or not."""
    torch.manual_seed(0)
    head = BVRRetinaHead(3, 16, feat_channels=16, bvr=OPTIONS)
    for _ in range(2):
        bvr = head.bvr
        for head_of_type in bvr.keypoint_head.keypoint_cls_heads.values():
            torch.testing.assert_close(head_of_type[-1].bias.sigmoid(), torch.full((3,), 0.01))
        weight = bvr.keypoint_head.keypoint_layers["center"][0].conv.weight
        assert 0.008 < weight.std() < 0.012
        assert 0.005 < bvr.reg_transformer.embedding.proj.weight.std() < 0.015
        attention = bvr.reg_transformer.decoder[0]
        limit = (6 / (4 * 16)) ** 0.5
        assert 0.9 * limit < attention.query.weight.abs().max() <= limit
        assert 0.9 * limit < attention.key_value.weight.abs().max() <= limit
        assert not (attention.query.bias.any() or attention.out_proj.bias.any())
        head.init_weights()


def test_roi_head_wants_shared_layers():
    cfg = Config.fromfile(CONFIGS / "relationnet2-faster-rcnn_r50_8xb2-1x_coco.py").model.roi_head
    cfg.bbox_head.update(type="Shared4Conv1FCBBoxHead")
    with (
        DefaultScope.overwrite_default_scope("mmdet"),
        pytest.raises(ValueError, match="must be a Shared2FCBBoxHead, found Shared4Conv1FCBBoxHead"),
    ):
        BVRRoIHead(**{key: value for key, value in cfg.items() if key != "type"})


def test_strides_must_be_square():
    with pytest.raises(ValueError, match=r"as wide as high, found strides \(8, 16\)"):
        BVRATSSHead(3, 16, anchor_generator={**ATSS_ANCHORS, "strides": [(8, 16)]})


def test_conversion():
    """Every published key of a head is used but the encodings; backbones and necks keep their names."""
    pack = packs.load(PACKS / "bvr_retina_head.json")
    official = {key: torch.zeros(shape) for key, shape, kind in pack["state_dict"]}
    assert sum(kind == "constant" for *_, kind in pack["state_dict"]) == 2
    norm = {"type": "GN", "num_groups": 32}
    options = {"base_size": (100, 100), "keypoint_head": {"norm_cfg": norm}}
    head = BVRRetinaHead(5, 64, stacked_convs=2, feat_channels=64, norm_cfg=norm, bvr=options)
    head.load_state_dict(head.convert_official(official))
    detector = {f"bbox_head.{key}": value for key, value in official.items()}
    converted = convert({"neck.lateral_convs.0.conv.bias": torch.zeros(1), **detector})
    assert {key.removeprefix("bbox_head.") for key in converted} == {
        "neck.lateral_convs.0.conv.bias",
        *head.state_dict(),
    }


def as_published(state_dict):
    """Weights of a detector of ours under the authors' names, with one of the encodings they store."""
    published = {}
    for key, value in state_dict.items():
        name = key.removeprefix("bbox_head.bvr.")
        if name == key:
            published[key.replace("bbox_head.", "bbox_head.bbox_head.")] = value
        elif "key_value" in name:  # these three are one
            parts = state_dict[key.replace("key_value", "query")], value
            published["bbox_head." + name.replace("key_value.", "in_proj_")] = torch.cat(parts)
        elif "embedding.proj" in name:
            new = "relative_positional_encoding.embedding_transform.0.conv"
            value = value[..., None, None] if value.ndim == 2 else value
            published["bbox_head." + name.replace("embedding.proj", new)] = value
        elif ".query." not in name:
            published[f"bbox_head.{name}"] = value
    unused = "bbox_head.cls_transformer.relative_positional_encoding.base_embedding"
    return {**published, unused: torch.zeros(1, 97, 97, 64)}


def test_converted_by_the_command_line(tmp_path, capfd):
    config = CONFIGS / "relationnet2-retinanet_r18_pennfudan.py"
    with DefaultScope.overwrite_default_scope("mmdet"):
        state = MODELS.build(Config.fromfile(config).model).state_dict()
    torch.save({"state_dict": as_published(state)}, tmp_path / "published.pth")
    load_tool("convert_checkpoint").main(
        [str(config), *(str(tmp_path / f"{x}.pth") for x in ("published", "out"))]
    )
    converted = torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"]
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[key], value) for key, value in state.items())
    assert "base_embedding" in capfd.readouterr().out


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_configs(path):
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        detector = MODELS.build(cfg.model)
    bvr = getattr(head_of(detector), "bvr", None)
    if "pennfudan" in path.stem:
        assert (bvr is None) == path.stem.startswith("retinanet")
        return
    found = [count(part) for part in (bvr.keypoint_head, bvr.cls_transformer, bvr.reg_transformer)]
    points = 7651062 if "fcos" not in path.stem else 7651062 - 6 * (9 * 256**2 + 2 * 256)
    if not hasattr(detector, "roi_head"):
        assert found == [points, 265224, 528392]
    assert found[0] == points and count(bvr.cls_transformer.embedding) == 2056
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def write_pennfudan(root):
    """Bright people, of an area of their own, on dark images."""
    generator = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    for split, first, number in (("train", 0, 6), ("val", 6, 2)):
        images, annotations = [], []
        for i in range(first, first + number):
            picture = generator.integers(0, 60, (64, 96, 3), dtype=np.uint8)
            x, y = (int(v) for v in generator.integers(4, 40, 2) // (1, 4))
            picture[y : y + 44, x : x + 20] = 220
            Image.fromarray(picture).save(root / f"images/{i}.jpg")
            images.append({"id": i, "file_name": f"{i}.jpg", "width": 96, "height": 64})
            box = {"bbox": [x, y, 20, 44], "area": 880, "iscrowd": 0, "category_id": 1}
            annotations.append({"id": i + 1, "image_id": i, **box})
        categories = [{"id": 1, "name": "person"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def test_a_run(tmp_path, capfd):
    """The small config, by the command line, on small files."""
    train = load_tool("train")
    options = [
        f"data_root={write_pennfudan(tmp_path / 'data')}",
        "train_cfg.max_epochs=2",
        "train_cfg.val_interval=2",
        "train_dataloader.batch_size=3",
        "train_dataloader.dataset.pipeline.2.scale=[(96,64),(96,80)]",
        "val_dataloader.dataset.pipeline.1.scale=(96,64)",
        "model.backbone.base_channels=16",
        "model.neck.in_channels=[16,32,64,128]",
        "model.test_cfg.score_thr=0.0",
        "visualizer.vis_backends=[]",
        "experiment_name=bvr",
        "default_hooks.logger.interval=1",
    ]
    config = CONFIGS / "relationnet2-retinanet_r18_pennfudan.py"
    train.main([str(config), "--work-dir", str(tmp_path / "work"), "--cfg-options", *options])
    said = capfd.readouterr().out
    assert "kpt_loss_point_cls: " in said and "coco/bbox_mAP: " in said
    assert (tmp_path / "work/epoch_2.pth").exists()
