"""Relation-DETR: the whole detector, its transformer in training, the relation, and the losses."""

import json
import re
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch.nn.modules.batchnorm import _BatchNorm

from dense.layers import PositionRelation
from dense.ops import position_relation

SOURCE = "xiuqhou/Relation-DETR"
CONFIG = Path(__file__).parents[3] / "configs/relation_detr/relation-detr_r50_8xb2-12e_coco.py"


def outputs(pack, weights, inputs):
    build = pack["build"]
    if "embed_dim" in build:
        return relation(build, weights, inputs)
    if "costs" in build:
        return criterion(pack, inputs)
    return training(pack, weights, inputs) if "feat0" in inputs else evaluation(build, weights, inputs)


# ------------------------------------------------------------------------------------------------ operators


def relation(build, weights, inputs):
    dims, heads = build["embed_dim"], build["heads"]
    layer = PositionRelation(heads, dims)
    weight, bias = (weights[f"position_relation_embedding.pos_proj.0.{key}"] for key in ("weight", "bias"))
    layer.load_state_dict({"proj.weight": weight.flatten(1), "proj.bias": bias})
    boxes = inputs["src"], inputs["tgt"]
    # as many heads as codes, each of which passes its code, raised by one, through the ReLU
    identity, one = torch.eye(4 * dims), torch.ones(4 * dims)
    codes = position_relation(*boxes, identity, one) - 1
    # angles of less than a quarter turn give the numbers themselves away, the first of each coordinate
    numbers = (position_relation(*boxes, identity[::dims], one[::dims], scale=0.1) - 1).arcsin() / 0.1
    return {
        "relation": layer(*boxes).unflatten(0, (-1, heads)),
        "sine": codes.permute(0, 2, 3, 1),
        "encoding": numbers.permute(0, 2, 3, 1),
    }


def criterion(pack, inputs):
    build = pack["build"]
    model = Config.fromfile(CONFIG).model
    for cost, weight in zip(model.train_cfg.assigner.match_costs, build["costs"], strict=True):
        cost.weight = weight
    model.train_cfg.assigner.match_costs[0].update(alpha=build["alpha"], gamma=build["gamma"])
    model.bbox_head.loss_cls.update(alpha=build["alpha"], gamma=build["gamma"])
    model.bbox_head.update(num_classes=build["num_classes"], train_cfg=model.train_cfg, as_two_stage=True)
    head = build_module(model.bbox_head)

    logits, boxes = inputs["logits"].requires_grad_(), inputs["boxes"]
    samples = make_samples(pack, inputs, [(1000, 1000)] * len(boxes))
    targets, metas = [s.gt_instances for s in samples], [s.metainfo for s in samples]
    losses = name_losses("", head.loss_by_feat_single(logits, boxes, targets, metas))
    total = sum(losses.values())
    (grad,) = torch.autograd.grad((total * pack["probe"]((1,))).sum(), logits)
    repeated = [InstanceData.cat([instances] * 6) for instances in targets]
    losses.update(name_losses("_hybrid6", head.loss_by_feat_single(logits, boxes, repeated, metas)))
    scales = {"class": 1, "bbox": head.loss_bbox.loss_weight, "giou": head.loss_iou.loss_weight}
    found = {name: value.view(1) / scales[name.split("_")[1]] for name, value in losses.items()}

    matches = []
    for i, meta in enumerate(metas):
        scored = InstanceData(scores=logits[i], bboxes=bbox_cxcywh_to_xyxy(boxes[i]) * 1000)
        index = head.assigner.assign(scored, targets[i], meta).gt_inds
        matches.append(torch.stack([index.nonzero()[:, 0], index[index > 0] - 1]))
    query, target = torch.cat(matches, 1).float()
    return {
        **found,
        "total": total.view(1),
        "match_query": query,
        "match_target": target,
        "grad.logits.of.total": grad,
    }


def name_losses(suffix, losses):
    return dict(zip((f"loss_{name}{suffix}" for name in ("class", "bbox", "giou")), losses, strict=True))


# ------------------------------------------------------------------------------------------------- networks


def evaluation(build, weights, inputs):
    detector = make_detector(build).eval()
    load(detector, weights)
    images = [255 * image.flip(0) for image in inputs["images"]]  # BGR, as a file has it
    samples = [DetDataSample(metainfo={"img_shape": tuple(image.shape[1:])}) for image in images]
    batch = detector.data_preprocessor({"inputs": images, "data_samples": samples})
    taps = tap(detector)
    taps["tap.neck"] = detector.extract_feat(batch["inputs"])
    with chosen_proposals(detector) as proposals:
        states = detector.forward_transformer(taps["tap.neck"], batch["data_samples"])
    logits, boxes = detector.bbox_head(**states)
    taps["tap.neck"] = taps["tap.neck"][0]
    return {
        "pred_logits": logits[-1],
        "pred_boxes": boxes[-1],
        "all_logits": logits,
        "all_boxes": boxes,
        "enc_logits": proposals[0][0],
        "enc_boxes": proposals[0][1],
        **taps,
    }


def training(pack, weights, inputs):
    build = pack["build"]
    detector = make_detector(
        build,
        **{
            "encoder.num_layers": build["encoder_layers"],
            "decoder.num_layers": build["decoder_layers"],
            "encoder.layer_cfg.ffn_cfg.feedforward_channels": build["d_ffn"],
            "decoder.layer_cfg.ffn_cfg.feedforward_channels": build["d_ffn"],
            # MMDetection wants some noise
            "dn_cfg.label_noise_scale": max(2 * build["label_noise_prob"], 1e-12),
            "dn_cfg.box_noise_scale": max(build["box_noise_scale"], 1e-12),
            "dn_cfg.group_cfg.num_dn_queries": build["denoising_nums"],
        },
    ).train()
    load(detector, weights, ("backbone.", "neck."))
    features = [inputs[f"feat{i}"].requires_grad_() for i in range(detector.num_feature_levels)]
    size = [8 * side for side in features[0].shape[2:]]
    valid = [1.0] * len(features[0])
    if padding := re.search(r"Image (\d+): .* int\((0\.\d+) W\)", pack["notes"]):
        valid[int(padding[1]) - 1] = float(padding[2])
    samples = make_samples(pack, inputs, [(size[0], int(share * size[1])) for share in valid])
    for sample in samples:
        sample.set_metainfo({"batch_input_shape": tuple(size)})

    def make_mask(masks, size):  # the pack's mask of a level is not that of the image, made smaller
        columns = torch.arange(size[1]).expand(len(valid), size[0], -1)
        return (columns >= (torch.tensor(valid) * size[1]).int()[:, None, None]).float()[None]

    dn_labels, dn_boxes, mask, meta = detector.dn_query_generator(samples)
    taps = tap(detector)
    with mock.patch("mmdet.models.detectors.deformable_detr.F.interpolate", make_mask):
        found = detector.forward_transformer(features, samples)
    logits, boxes = detector.bbox_head(found["hidden_states"], found["references"])
    hybrid = {**found["hybrid"], **found["hybrid_outputs"]}
    hybrid_logits, hybrid_boxes = detector.bbox_head(hybrid["hidden_states"], hybrid["references"])
    (grad,) = torch.autograd.grad((boxes * pack["probe"](boxes.shape)).sum(), features[0])
    return {
        "all_logits": logits,
        "all_boxes": boxes,
        "enc_logits": found["enc_outputs_class"],
        "enc_boxes": found["enc_outputs_coord"],
        "hybrid_logits": hybrid_logits,
        "hybrid_boxes": hybrid_boxes,
        "hybrid_enc_logits": hybrid["enc_outputs_class"],
        "hybrid_enc_boxes": hybrid["enc_outputs_coord"],
        "dn_label_query": dn_labels,
        "dn_box_query": dn_boxes,
        "attn_mask": mask.float(),
        "grad.feat0.of.all_boxes": grad,
        **taps,
    }


def make_detector(build, **changes):
    config = Config.fromfile(CONFIG)
    changes["num_queries"] = build["num_queries"]
    changes["hybrid_queries"] = build["hybrid_num_proposals"]
    changes["bbox_head.num_classes"] = build["num_classes"]
    config.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    return build_module(config.model)


def build_module(config):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(config)


def load(detector, weights, absent=()):
    """Load the published weights; those of frozen norms stay 1 and 0, those under ``absent`` as they are."""
    missing, unexpected = detector.load_state_dict(detector.convert_official(weights), strict=False)
    norms = {name for name, module in detector.named_modules() if isinstance(module, _BatchNorm)}
    constant = {f"{name}.{key}" for name in norms for key in ("weight", "bias")}
    assert not unexpected, unexpected
    missing = [key for key in missing if key not in constant and not key.startswith(absent)]
    assert not missing, missing


def make_samples(pack, inputs, sizes):
    """Data samples of images of those sizes (height, width), with the labels that the pack's notes name."""
    labels = re.search(r"Labels ((?:\[[\d, ]*\](?:, | and )?)+)", pack["notes"])[1]
    labels = [json.loads(text) for text in re.findall(r"\[.*?\]", labels)]
    samples = []
    for i, (height, width) in enumerate(sizes):
        boxes = bbox_cxcywh_to_xyxy(inputs[f"gt{i}"]) * torch.tensor([width, height] * 2)
        sample = DetDataSample(metainfo={"img_shape": (height, width)})
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor(labels[i], dtype=torch.long))
        samples.append(sample)
    return samples


def tap(detector):
    """What the first call of each of some inner stages returns, filled in as they are called.

    Not the relation, which multiplies what boxes differ by in rounding, and has its own pack.
    """
    stages = {"memory": detector.encoder, "enc_layer0": detector.encoder.layers[0]}
    stages.update({f"dec_layer{i}": layer for i, layer in enumerate(detector.decoder.layers)})
    taps = {}

    def keep(name, y):  # a hook that returned it would replace the output
        taps.setdefault(f"tap.{name}", y)

    for name, module in stages.items():
        module.register_forward_hook(lambda _, __, y, name=name: keep(name, y))
    return taps


@contextmanager
def chosen_proposals(detector):
    """What the detector's choices of proposals return."""
    choose, chosen = detector.choose_proposals, []
    with mock.patch.object(detector, "choose_proposals", lambda *a: chosen.append(choose(*a)) or chosen[-1]):
        yield chosen
