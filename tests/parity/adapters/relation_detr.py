"""Relation-DETR: the whole detector, its transformer in training, the relation, and the losses."""

import re
from collections.abc import Iterator
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
from torch import Tensor, nn

from dense.layers import PositionRelation
from dense.ops import position_relation

from ..adapt import Case, Pack, labels

CONFIG = Path(__file__).parents[3] / "configs/relation_detr/relation-detr_r50_8xb2-12e_coco.py"
CONSTANT = r"backbone\..*(bn\d|downsample\.1)\.(weight|bias)"  # of frozen norms, 1 and 0
POS_PROJ = "position_relation_embedding.pos_proj.0."


def adapt(pack: Pack) -> Case:
    if not pack.weights:
        return criterion(pack)
    if not pack.has("transformer."):
        return relation(pack)
    return (training if "feat0" in pack.inputs else evaluation)(pack)


# ------------------------------------------------------------------------------------------------ operators


def relation(pack: Pack) -> Case:
    heads, channels = pack.shapes[f"{POS_PROJ}weight"][:2]
    dims = channels // 4
    pack.words.agree(embed_dim=dims, heads=heads)
    layer = PositionRelation(heads, dims)
    state = {
        "proj.weight": pack.weights[f"{POS_PROJ}weight"].flatten(1),
        "proj.bias": pack.weights[f"{POS_PROJ}bias"],
    }

    def run(inputs):
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

    return Case(layer, state, run=run, once=True)


def criterion(pack: Pack) -> Case:
    words, model = pack.words, Config.fromfile(CONFIG).model
    classes, costs = pack.inputs["logits"].shape[-1], model.train_cfg.assigner.match_costs
    words.agree(num_classes=classes)
    for cost, weight in zip(costs, words.get("costs", [2, 5, 2]), strict=True):
        cost.weight = weight
    focal = {"alpha": words.get("alpha", 0.25), "gamma": words.get("gamma", 2.0)}
    costs[0].update(focal)
    model.bbox_head.loss_cls.update(focal)
    model.bbox_head.update(num_classes=classes, train_cfg=model.train_cfg, as_two_stage=True)
    head = build(model.bbox_head)
    repeats = {int(times) for name in pack.facts for times in re.findall(r"_hybrid(\d+)", name)}

    def run(inputs):
        logits, boxes = inputs["logits"], inputs["boxes"]
        samples = make_samples(pack, [(1000, 1000)] * len(boxes))
        targets, metas = [s.gt_instances for s in samples], [s.metainfo for s in samples]
        losses = name_losses("", head.loss_by_feat_single(logits, boxes, targets, metas))
        total = sum(losses.values())
        for times in repeats:
            repeated = [InstanceData.cat([instances] * times) for instances in targets]
            found = head.loss_by_feat_single(logits, boxes, repeated, metas)
            losses.update(name_losses(f"_hybrid{times}", found))
        scales = {"class": 1, "bbox": head.loss_bbox.loss_weight, "giou": head.loss_iou.loss_weight}
        found = {name: value.view(1) / scales[name.split("_")[1]] for name, value in losses.items()}
        matches = []
        for i, meta in enumerate(metas):
            scored = InstanceData(scores=logits[i], bboxes=bbox_cxcywh_to_xyxy(boxes[i]) * 1000)
            index = head.assigner.assign(scored, targets[i], meta).gt_inds
            matches.append(torch.stack([index.nonzero()[:, 0], index[index > 0] - 1]))
        query, target = torch.cat(matches, 1).float()
        return {**found, "total": total.view(1), "match_query": query, "match_target": target}

    return Case(run=run, once=True)


def name_losses(suffix: str, losses: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return dict(zip((f"loss_{name}{suffix}" for name in ("class", "bbox", "giou")), losses, strict=True))


# ------------------------------------------------------------------------------------------------- networks


def evaluation(pack: Pack) -> Case:
    detector = make_detector(pack)

    def run(inputs):
        images = [255 * image.flip(0) for image in inputs["images"]]  # BGR, as a file has it
        samples = [DetDataSample(metainfo={"img_shape": tuple(image.shape[1:])}) for image in images]
        batch = detector.data_preprocessor({"inputs": images, "data_samples": samples})
        features = detector.extract_feat(batch["inputs"])
        with chosen_proposals(detector) as proposals:
            states = detector.forward_transformer(features, batch["data_samples"])
        logits, boxes = detector.bbox_head(**states)
        return {
            "pred_logits": logits[-1],
            "pred_boxes": boxes[-1],
            "all_logits": logits,
            "all_boxes": boxes,
            "enc_logits": proposals[0][0],
            "enc_boxes": proposals[0][1],
            "tap.neck": features[0],
        }

    return Case(detector, detector.convert_official(pack.weights), taps(detector), run, CONSTANT, once=True)


def training(pack: Pack) -> Case:
    detector = make_detector(pack)
    batch, _, *size = pack.inputs["feat0"].shape
    size = [8 * side for side in size]
    valid = [1.0] * batch
    if padding := re.search(r"Image (\d+): .* int\((0\.\d+) W\)", pack.notes):
        valid[int(padding[1]) - 1] = float(padding[2])
    samples = make_samples(pack, [(size[0], int(share * size[1])) for share in valid])
    for sample in samples:
        sample.set_metainfo({"batch_input_shape": tuple(size)})

    def make_mask(masks, size):  # the pack's mask of a level is not that of the image, made smaller
        columns = torch.arange(size[1]).expand(len(valid), size[0], -1)
        return (columns >= (torch.tensor(valid) * size[1]).int()[:, None, None]).float()[None]

    def run(inputs):
        features = [inputs[f"feat{i}"] for i in range(detector.num_feature_levels)]
        dn_labels, dn_boxes, mask, _ = detector.dn_query_generator(samples)
        with mock.patch("mmdet.models.detectors.deformable_detr.F.interpolate", make_mask):
            found = detector.forward_transformer(features, samples)
        logits, boxes = detector.bbox_head(found["hidden_states"], found["references"])
        hybrid = {**found["hybrid"], **found["hybrid_outputs"]}
        hybrid_logits, hybrid_boxes = detector.bbox_head(hybrid["hidden_states"], hybrid["references"])
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
        }

    state = detector.convert_official(pack.weights)
    return Case(detector, state, taps(detector), run, r"(backbone|neck)\..*", train=True)


def make_detector(pack: Pack) -> nn.Module:
    words, shapes = pack.words, pack.shapes
    encoder, decoder = (
        pack.count(rf"transformer\.{part}\.layers\.(\d+)\.") for part in ("encoder", "decoder")
    )
    hidden = shapes["transformer.encoder.layers.0.linear1.weight"][0]
    queries, hybrid = (shapes[f"transformer.{name}tgt_embed.weight"][0] for name in ("", "hybrid_"))
    classes = shapes["transformer.decoder.class_head.0.weight"][0]
    heads = shapes[f"transformer.decoder.{POS_PROJ}weight"][0]
    words.agree(encoder_layers=encoder, decoder_layers=decoder, d_ffn=hidden, heads=heads)
    words.agree(num_queries=queries, hybrid_num_proposals=hybrid, num_classes=classes)
    words.agree(embed_dim=shapes["transformer.level_embeds"][1])
    words.only("backbone", "resnet50 frozen BN", "resnet50")
    changes = {
        "num_queries": queries,
        "hybrid_queries": hybrid,
        "bbox_head.num_classes": classes,
        "encoder.num_layers": encoder,
        "decoder.num_layers": decoder,
        "encoder.layer_cfg.ffn_cfg.feedforward_channels": hidden,
        "decoder.layer_cfg.ffn_cfg.feedforward_channels": hidden,
        # MMDetection wants some noise
        "dn_cfg.label_noise_scale": max(2 * words.get("label_noise_prob", 0.25), 1e-12),
        "dn_cfg.box_noise_scale": max(words.get("box_noise_scale", 1.0), 1e-12),
        "dn_cfg.group_cfg.num_dn_queries": words.get("denoising_nums", 100),
    }
    config = Config.fromfile(CONFIG)
    config.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    return build(config.model)


def build(config) -> nn.Module:
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(config)


def make_samples(pack: Pack, sizes: list[tuple[int, int]]) -> list[DetDataSample]:
    """Data samples of images of those sizes (height, width), with the labels that the pack's notes name."""
    samples = []
    for i, ((height, width), names) in enumerate(zip(sizes, labels(pack), strict=True)):
        boxes = bbox_cxcywh_to_xyxy(pack.inputs[f"gt{i}"]) * torch.tensor([width, height] * 2)
        sample = DetDataSample(metainfo={"img_shape": (height, width)})
        sample.gt_instances = InstanceData(bboxes=boxes, labels=names)
        samples.append(sample)
    return samples


def taps(detector: nn.Module) -> dict[str, nn.Module]:
    """Not the relation, which multiplies what boxes differ by in rounding, and has its own pack."""
    found = {f"enc_layer{i}": layer for i, layer in enumerate(detector.encoder.layers)}
    found |= {f"dec_layer{i}": layer for i, layer in enumerate(detector.decoder.layers)}
    return {"memory": detector.encoder, **found}


@contextmanager
def chosen_proposals(detector: nn.Module) -> Iterator[list]:
    """What the detector's choices of proposals return."""
    choose, chosen = detector.choose_proposals, []
    with mock.patch.object(detector, "choose_proposals", lambda *a: chosen.append(choose(*a)) or chosen[-1]):
        yield chosen
