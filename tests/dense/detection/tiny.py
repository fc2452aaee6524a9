"""The detectors of the configs, small enough for tests, and images with boxes for them."""

from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

CONFIGS = Path(__file__).parents[3] / "configs/relation_detr"
MOST = {
    "hybrid_queries": 20,
    "max_per_img": 10,
    "num_classes": 5,
    "num_dn_queries": 10,
    "num_layers": 3,
    "num_queries": 12,
}


def read_model(config, dims=32, **changes):
    """The model of a config in three layers of few channels on a ResNet-18 an eighth as wide."""
    config = Config.fromfile(CONFIGS / config)
    model = config.model
    sizes = {"embed_dims": dims, "num_heads": 4, "feedforward_channels": 48, "num_feats": dims // 2}
    shrink(model, sizes)
    model.backbone.update(depth=18, stem_channels=8, base_channels=8)
    model.bbox_head.embed_dims = dims
    model.neck.update(in_channels=[8 << i for i in model.backbone.out_indices], out_channels=dims)
    config.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    return config.model


def shrink(node, sizes):
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if key == "relation_encoder":
            continue
        if isinstance(value, dict | list):
            shrink(value, sizes)
        elif key in sizes:
            node[key] = sizes[key]
        elif key in MOST:
            node[key] = min(value, MOST[key])
    if isinstance(node, dict):
        node.pop("init_cfg", None)


def construct(model):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(model)


def build(model, seed=0):
    torch.manual_seed(seed)
    detector = construct(model)
    detector.init_weights()  # as the Runner does: until then some of MMDetection's parameters hold anything
    return detector


def spread(detector, seed=1):
    """Weights of some size everywhere: at first all queries predict the same box that they began with."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in detector.parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.any():  # a closed branch
            torch.nn.init.ones_(module.weight)
    return detector


def make_batch(detector, boxes=(3, 1), sizes=((64, 64), (64, 48)), seed=0):
    """Preprocessed images of those sizes (height, width), with so many boxes each."""
    generator = torch.Generator().manual_seed(seed)
    images, samples = [], []
    for count, (height, width) in zip(boxes, sizes, strict=True):
        images.append(torch.randint(0, 256, (3, height, width), generator=generator).float())
        corners = torch.rand(count, 2, 2, generator=generator).sort(1).values * 0.8
        corners[:, 1] += 0.2
        names = ("img_shape", "ori_shape")
        sample = DetDataSample(
            metainfo={**dict.fromkeys(names, (height, width)), "scale_factor": (1.0, 1.0), "img_id": 0}
        )
        sample.gt_instances = InstanceData(
            bboxes=corners.flatten(1) * torch.tensor([width, height] * 2),
            labels=torch.randint(0, 5, (count,), generator=generator),
        )
        samples.append(sample)
    return detector.data_preprocessor({"inputs": images, "data_samples": samples}, training=True)


def compute_loss(detector, batch):
    losses = detector.loss(batch["inputs"], batch["data_samples"])
    return detector.parse_losses(losses)[0], losses
