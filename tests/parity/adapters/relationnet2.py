"""RelationNet++: heads with their bridge, the transformer alone, key points' head, targets and losses."""

import json
import re

import torch
from mmengine.structures import InstanceData

from dense.detection.bvr import BVR, BVRTransformer, convert_official
from dense.detection.bvr_heads import BVRATSSHead, BVRFCOSHead, BVRRetinaHead
from dense.detection.bvr_points import POINT_TYPES, KeyPointHead, Keys, Points, cell_centres, keypoint_targets

SOURCE = "microsoft/RelationNet2"
HEADS = {"RetinaHead": BVRRetinaHead, "FCOSHead": BVRFCOSHead, "ATSSHead": BVRATSSHead}
TYPES = {"tl": 0, "br": 1, "center": 2}
OF_BASE_HEAD = ("stacked_convs", "norm_on_bbox", "centerness_on_reg", "dcn_on_last_conv", "conv_bias")
OF_POINTS = ("shared_stacked_convs", "logits_convs", "corner_pooling")


def outputs(pack, weights, inputs):
    build = pack["build"]
    if "bbox_head" in build:
        return head(build, weights, inputs)
    if "groups" in build:
        return transformer(pack, weights, inputs)
    if "gaussian_iou" in build:
        return targets_and_losses(pack, inputs)
    return key_points(build, weights, inputs)


def norm(name):
    return {"type": "GN", "num_groups": int(name.removeprefix("GN"))} if name else None


def chosen(build, names):
    return {name: build[name] for name in names if name in build}


def levels(inputs, letter):
    return [inputs[key] for key in sorted(inputs) if key[0] == letter and key[1:].isdigit()]


def head(build, weights, inputs):
    maps = levels(inputs, "p")
    norm_cfg = norm(build["norm"])
    base = chosen(build, OF_BASE_HEAD)
    if build["bbox_head"] == "ATSSHead":
        anchors = {"ratios": [1.0], "octave_base_scale": 8, "scales_per_octave": 1}
        strides = [8 << i for i in range(len(maps))]
        base["anchor_generator"] = {"type": "mmdet.AnchorGenerator", "strides": strides, **anchors}
    elif build["bbox_head"] == "FCOSHead":
        base["strides"] = [8 << i for i in range(len(maps))]
    bvr = {
        "base_size": build["base_size"],
        "scale_position": build.get("scale_position", False),
        "log_scale": build.get("log_scale", True),
        "shared_embedding": build.get("shared_positional_encoding_outer", False),
        "num_heads": build.get("heads", 8),
        "reference_quirks": True,
        "keypoint_head": {**chosen(build, OF_POINTS), "norm_cfg": norm_cfg},
    }
    channels = build["channels"]
    network = HEADS[build["bbox_head"]](
        num_classes=build["num_classes"],
        in_channels=channels,
        feat_channels=channels,
        norm_cfg=norm_cfg,
        bvr=bvr,
        **base,
    ).eval()
    network.load_state_dict(network.convert_official(weights))
    found = {}
    tap(found, "tap.cls_transformer", network.bvr.cls_transformer.decoder[0])
    tap(found, "tap.reg_transformer_tl", network.bvr.reg_transformer.decoder[0])
    tap(found, "tap.reg_transformer_br", network.bvr.reg_transformer.decoder[1])

    towers = []
    for convs in (network.cls_convs, network.reg_convs):
        towers.append([])
        for x in maps:
            for layer in convs:
                x = layer(x)
            towers[-1].append(x)
    points, (centres,), corners = network.bvr.find_keys(maps, *towers)
    for name, keys in zip(("center", "tl", "br"), (centres, *corners), strict=True):
        found[f"{name}_keys_xy"], found[f"{name}_key_feat"] = keys
    for i, level in enumerate(range(3, 3 + len(maps))):
        found[f"tap.cls_tower_p{level}"], found[f"tap.reg_tower_p{level}"] = towers[0][i], towers[1][i]
        for name, j in TYPES.items():
            found[f"{name}_logit_p{level}"] = points.logits[i][:, j]
            found[f"{name}_offset_p{level}"] = points.offsets[i][:, j]
    *predicted, _ = network(maps)
    for name, maps_of in zip(("cls", "reg", "centerness"), predicted, strict=False):
        found.update({f"{name}_p{3 + i}": y for i, y in enumerate(maps_of)})
    return found


def tap(found, name, attention):
    """The first level's output, which is published as (queries, B, C)."""

    def keep(_, __, y):
        found.setdefault(name, y[0].flatten(1, -2).transpose(0, 1))

    attention.register_forward_hook(keep)


def transformer(pack, weights, inputs):
    build = pack["build"]
    module = BVRTransformer(
        build["channels"],
        build["groups"],
        build["heads"],
        base_size=build["base_size"],
        log_scale=build["log_scale"],
        reference_quirks=True,
    )
    converted = convert_official(weights)
    module.load_state_dict({key.removeprefix("bvr."): value for key, value in converted.items()})
    groups = range(build["groups"])
    keys = [Keys((200 * inputs[f"pos{g}"] - 20) / 8, inputs[f"key{g}"]) for g in groups]
    found = {}
    for i, queries in enumerate(levels(inputs, "q")):
        queries.requires_grad_()
        x, y = (z / 8 for z in cell_centres(*queries.shape[1:3], 8 << i, queries))
        out = module(queries, x, y, keys)
        found[f"out{i}"] = out
        (found[f"grad.q{i}.of.out{i}"],) = torch.autograd.grad(
            (out * pack["probe"](out.shape)).sum(), queries
        )
        if i == 0:
            key_x, key_y = keys[0].xy[:, None, None].unbind(-1)
            bias = module.embedding(key_x - x[..., None], key_y - y[..., None])  # (B, heads, H, W, K)
            found["location_embedding"] = bias.flatten(2, 3).permute(0, 2, 3, 1)
    return found


def targets_and_losses(pack, inputs):
    build = pack["build"]
    bvr = BVR(build["num_classes"], 32, 32, build["strides"], min_overlap=build["gaussian_iou"])
    scores = [s.requires_grad_() for s in levels(inputs, "s")]
    boxes = [inputs[key] for key in sorted(inputs) if key.startswith("gt")]
    noted = pack["notes"].partition("Labels ")[2]  # "[0,2,1] and [1]", of each image
    labels = [torch.tensor(json.loads(found)) for found in re.findall(r"\[[\d, ]*\]", noted)]
    sizes = [tuple(s.shape[2:]) for s in scores]
    options = (sizes, build["strides"], build["num_classes"], build["gaussian_iou"])
    targets = [keypoint_targets(b, label, *options) for b, label in zip(boxes, labels, strict=True)]
    by_type = [torch.stack(parts, 1).flatten(0, 1) for parts in zip(*targets, strict=True)]
    points = [[x.unflatten(0, (len(boxes), 3)) for x in maps] for maps in (scores, levels(inputs, "o"))]
    instances = [InstanceData(bboxes=b, labels=label) for b, label in zip(boxes, labels, strict=True)]
    losses = {name.removeprefix("kpt_"): x[None] for name, x in bvr.loss(Points(*points), instances).items()}
    found = {**losses, "score_targets": by_type[0], "offset_targets": by_type[1]}
    found["positive"] = by_type[2][..., None].float()
    loss = losses["loss_point_cls"]
    grads = torch.autograd.grad((loss * pack["probe"](loss.shape)).sum(), scores)
    return {**found, **{f"grad.s{i}.of.loss_point_cls": grad for i, grad in enumerate(grads)}}


def key_points(build, weights, inputs):
    options = chosen(build, ("stacked_convs", *OF_POINTS))
    module = KeyPointHead(
        build["num_classes"], build["channels"], build["channels"], norm_cfg=norm(build["norm"]), **options
    ).eval()
    module.load_state_dict(weights)
    found = {}
    logits, offsets = module(levels(inputs, "p"))
    for j, name in enumerate(POINT_TYPES):
        for i, (logit, offset) in enumerate(zip(logits, offsets, strict=True)):
            found[f"{name}_logit_p{3 + i}"], found[f"{name}_offset_p{3 + i}"] = logit[:, j], offset[:, j]
    return found
