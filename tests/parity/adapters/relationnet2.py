"""RelationNet++: heads with their bridge, the transformer alone, key points' head, targets and losses."""

import re
from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from dense.detection.networks.relationnet2.bvr import BVR, UNIT, BVRTransformer
from dense.detection.networks.relationnet2.heads import BVRATSSHead, BVRFCOSHead, BVRRetinaHead
from dense.detection.networks.relationnet2.points import (
    POINT_TYPES,
    KeyPointHead,
    Keys,
    Points,
    cell_centres,
    keypoint_targets,
)
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, labels

HEADS = {"RetinaHead": BVRRetinaHead, "FCOSHead": BVRFCOSHead, "ATSSHead": BVRATSSHead}
TYPES = {"tl": 0, "br": 1, "center": 2}
EMBEDDING = "relative_positional_encoding."


def adapt(pack: Pack) -> Case:
    if pack.has("bbox_head."):
        return head(pack)
    if pack.has("decoder."):
        return transformer(pack)
    return (targets_and_losses if "s0" in pack.inputs else key_points)(pack)


def levels(inputs: dict[str, Tensor], letter: str) -> dict[int, Tensor]:
    """The inputs of that letter and a number, by number."""
    found = {int(key[1:]): x for key, x in inputs.items() if re.fullmatch(rf"{letter}\d+", key)}
    return dict(sorted(found.items()))


def norm(pack: Pack, layer: str) -> dict[str, Any] | None:
    """The group norm of a convolution, as "GN32", where it has one."""
    groups = re.search(r"\d+", pack.words.get("norm") or "GN32")
    return {"type": "GN", "num_groups": int(groups[0])} if pack.has(f"{layer}.gn.") else None


def point_options(pack: Pack, prefix: str) -> dict[str, Any]:
    """Arguments of :class:`KeyPointHead` but for its channels."""
    start = re.escape(prefix)
    options = {
        "shared_stacked_convs": pack.count(start + r"shared_layers\.(\d+)\."),
        "logits_convs": pack.count(start + r"keypoint_cls_heads\.center\.(\d+)\.") - 1,
        "corner_pooling": any(".p1_conv1." in key for key in pack.shapes),
    }
    classes = pack.shapes[f"{prefix}keypoint_cls_heads.center.{options['logits_convs']}.bias"][0]
    pack.words.agree(num_classes=classes, **options)
    options["stacked_convs"] = pack.count(start + r"keypoint_layers\.center\.(\d+)\.")
    return {**options, "norm_cfg": norm(pack, f"{prefix}keypoint_layers.center.0"), "num_classes": classes}


def attention_options(pack: Pack) -> dict[str, Any]:
    """What the transformers of a head share."""
    words = pack.words
    shapes = {key.partition(EMBEDDING)[2]: shape for key, shape in pack.shapes.items() if EMBEDDING in key}
    heads = shapes["embedding_transform.0.conv.weight"][0]
    words.agree(heads=heads)
    _, rows, columns, _ = shapes.get("base_embedding", (1, 401, 401, 1))
    return {
        "num_heads": heads,
        "base_size": words.get("base_size", (columns - 1, rows - 1)),
        "log_scale": words.get("log_scale", True),
        "concat_position": words.get("cat_pos", False),
        "reference_quirks": True,
    }


def head(pack: Pack) -> Case:
    words, maps = pack.words, levels(pack.inputs, "p")
    words.only("bbox_head", *HEADS)
    channels, in_channels = pack.shapes["bbox_head.cls_convs.0.conv.weight"][:2]
    strides = words.get("strides", [2**level for level in maps])
    stacked = pack.count(r"bbox_head\.cls_convs\.(\d+)\.")
    words.agree(channels=channels, stacked_convs=stacked)
    points = point_options(pack, "keypoint_head.")
    classes = points.pop("num_classes")
    points["feat_channels"] = pack.shapes["keypoint_head.keypoint_layers.center.0.conv.weight"][0]
    kind = words.get("bbox_head", "RetinaHead")
    anchors = {
        "RetinaHead": {"ratios": [0.5, 1.0, 2.0], "octave_base_scale": 4, "scales_per_octave": 3},
        "ATSSHead": {"ratios": [1.0], "octave_base_scale": 8, "scales_per_octave": 1},
    }
    options = words.given("norm_on_bbox", "centerness_on_reg", "dcn_on_last_conv", "conv_bias")
    if kind in anchors:
        options["anchor_generator"] = {"type": "mmdet.AnchorGenerator", "strides": strides, **anchors[kind]}
    else:
        options["strides"] = strides
    shared = words.get("shared_positional_encoding_outer", False)
    model = HEADS[kind](
        num_classes=classes,
        in_channels=in_channels,
        feat_channels=channels,
        stacked_convs=stacked,
        norm_cfg=norm(pack, "bbox_head.cls_convs.0"),
        bvr={
            **attention_options(pack),
            "shared_embedding": shared,
            "keypoint_head": points,
        },
        **options,
    )
    state = model.convert_official(pack.weights)
    if shared:  # of one tensor under two names, the pack may fill the first only
        for key in [key for key in state if key.startswith("bvr.cls_transformer.embedding.")]:
            state.setdefault(key.replace("cls_transformer", "reg_transformer"), state[key])
    taps = {
        "cls_transformer": first_level(model.bvr.cls_transformer.decoder[0]),
        "reg_transformer_tl": first_level(model.bvr.reg_transformer.decoder[0]),
        "reg_transformer_br": first_level(model.bvr.reg_transformer.decoder[1]),
    }
    return Case(model, state, taps, lambda inputs: run_head(model, levels(inputs, "p")), once=True)


def first_level(attention: nn.Module):
    """The output for the first level, which is published as (queries, B, C)."""
    return attention, lambda y, *_: y[0].flatten(1, -2).transpose(0, 1)


def run_head(model: nn.Module, inputs: dict[int, Tensor]) -> dict[str, Tensor]:
    found, maps = {}, list(inputs.values())
    towers = []
    for convs in (model.cls_convs, model.reg_convs):
        towers.append([])
        for x in maps:
            for layer in convs:
                x = layer(x)
            towers[-1].append(x)
    points, (centres,), corners = model.bvr.find_keys(maps, *towers)
    for name, keys in zip(("center", "tl", "br"), (centres, *corners), strict=True):
        found[f"{name}_keys_xy"], found[f"{name}_key_feat"] = keys
    *predicted, _ = model(maps)
    for i, level in enumerate(inputs):
        found[f"tap.cls_tower_p{level}"], found[f"tap.reg_tower_p{level}"] = towers[0][i], towers[1][i]
        for name, j in TYPES.items():
            found[f"{name}_logit_p{level}"] = points.logits[i][:, j]
            found[f"{name}_offset_p{level}"] = points.offsets[i][:, j]
        for name, levels_of in zip(("cls", "reg", "centerness"), predicted, strict=False):
            found[f"{name}_p{level}"] = levels_of[i]
    return found


def transformer(pack: Pack) -> Case:
    words = pack.words
    groups, channels = pack.count(r"decoder\.(\d+)\."), pack.shapes["decoder.0.out_proj.weight"][0]
    words.agree(groups=groups, channels=channels)
    strides = words.get("strides", [8 << i for i in levels(pack.inputs, "q")])
    scale, shift = re.search(r"(\d+)\*pos - (\d+)", pack.notes + " 200*pos - 20").groups()
    model = BVRTransformer(channels, groups, **attention_options(pack))

    def run(inputs):
        found = {}
        xy = [(int(scale) * inputs[f"pos{g}"] - int(shift)) / UNIT for g in range(groups)]
        keys = [Keys(position, inputs[f"key{g}"]) for g, position in enumerate(xy)]
        for (i, queries), stride in zip(levels(inputs, "q").items(), strides, strict=True):
            x, y = (z / UNIT for z in cell_centres(*queries.shape[1:3], stride, queries))
            found[f"out{i}"] = model(queries, x, y, keys)
            if i == 0:
                key_x, key_y = keys[0].xy[:, None, None].unbind(-1)
                bias = model.embedding(key_x - x[..., None], key_y - y[..., None])  # (B, heads, H, W, K)
                found["location_embedding"] = bias.flatten(2, 3).permute(0, 2, 3, 1)
        return found

    branch = "cls_transformer."
    state = BVRRetinaHead.convert_official({branch + key: value for key, value in pack.weights.items()})
    return Case(model, strip_prefix(state, f"bvr.{branch}"), run=run, once=True)


def targets_and_losses(pack: Pack) -> Case:
    """The weights of the pack, of a head of key points, have no part in them."""
    words, scores = pack.words, levels(pack.inputs, "s")
    strides = words.get("strides", [8 << i for i in scores])
    classes, overlap = scores[0].shape[1], words.get("gaussian_iou", 0.7)
    words.agree(num_classes=classes)
    bvr = BVR(classes, 32, 32, strides, min_overlap=overlap)
    boxes = [pack.inputs[key] for key in sorted(pack.inputs) if key.startswith("gt")]
    images = list(zip(boxes, labels(pack), strict=True))
    sizes = [tuple(score.shape[2:]) for score in scores.values()]
    instances = [InstanceData(bboxes=boxes, labels=names) for boxes, names in images]

    def run(inputs):
        maps = [levels(inputs, letter).values() for letter in "so"]
        points = Points(*([x.unflatten(0, (len(images), 3)) for x in each] for each in maps))
        losses = {name.removeprefix("kpt_"): x[None] for name, x in bvr.loss(points, instances).items()}
        targets = [keypoint_targets(*image, sizes, strides, classes, overlap) for image in images]
        by_type = [torch.stack(parts, 1).flatten(0, 1) for parts in zip(*targets, strict=True)]
        found = dict(zip(("score_targets", "offset_targets"), by_type, strict=False))
        return {**losses, **found, "positive": by_type[2][..., None].float()}

    return Case(run=run, once=True)


def key_points(pack: Pack) -> Case:
    options = point_options(pack, "")
    pack.words.agree(stacked_convs=options["stacked_convs"])
    maps = levels(pack.inputs, "p")
    in_channels = next(iter(maps.values())).shape[1]
    channels = pack.shapes["keypoint_layers.center.0.conv.weight"][0]
    pack.words.agree(channels=channels)
    model = KeyPointHead(options.pop("num_classes"), in_channels, channels, **options)

    def run(inputs):
        found = {}
        logits, offsets = model(list(levels(inputs, "p").values()))
        for j, name in enumerate(POINT_TYPES):
            for level, logit, offset in zip(maps, logits, offsets, strict=True):
                found[f"{name}_logit_p{level}"] = logit[:, j]
                found[f"{name}_offset_p{level}"] = offset[:, j]
        return found

    return Case(model, pack.weights, run=run, once=True)
