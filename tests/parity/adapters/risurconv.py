"""RISurConv: networks in canonical order and as published, and single operators."""

import torch
from torch import nn

import pointsuite
from pointsuite.layers import NeighbourAttention, PointAttention
from pointsuite.models.risurconv import convert_attentions, global_geometry
from pointsuite.ops import gather_points, surface_features, weighted_normal

SOURCE = "cszyzhang/RISurConv"


def outputs(pack, weights, inputs):
    name = pack["name"]
    if name.startswith("risurconv_cls"):
        return classifier(pack, weights, inputs["points"])
    if name.startswith("risurconv_partseg"):
        return part_segmenter(pack, weights, inputs)
    return {
        "RISP_features": features,
        "sample_and_group_all": group_all,
        "SA_Layer_2d": neighbour_attention,
        "SA_Layer": point_attention,
    }[pack["build"]["op"]](pack, weights, inputs)


def classifier(pack, weights, points):
    canonical = "canonical" in pack["name"]
    build = pack["build"]
    network = pointsuite.create_model(
        "risurconv_cls",
        num_classes=build["num_classes"],
        width=build["width"],
        batch_attention="published",
        neighbour_order="sorted" if canonical else "torch",
        reference_sign="fixed" if canonical else "rounded",
        global_sign="lapack",
        global_origin="origin",
        global_attention="published",
    ).eval()
    network.load_state_dict(network.convert_official(weights))
    taps = {}
    for i, layer in enumerate([*network.backbone.layers, network.global_layer]):
        layer.register_forward_hook(lambda _, __, y, i=i: taps.__setitem__(f"tap.sc{i}", y.transpose(1, 2)))
    network.encoder.register_forward_hook(lambda _, __, y: taps.__setitem__("tap.encoder", y[:, None]))
    logits = network(points)
    return {"log_probs": logits.log_softmax(-1), "l4": taps["tap.sc4"], **taps}


def part_segmenter(pack, weights, inputs):
    canonical = "canonical" in pack["name"]
    network = pointsuite.create_model(
        "risurconv_partseg",
        **pack["build"],
        neighbour_order="sorted" if canonical else "torch",
        reference_sign="fixed" if canonical else "rounded",
    ).eval()
    network.load_state_dict(network.convert_official(weights))
    network.requires_grad_(False)
    stages = {f"tap.sa{i}": layer for i, layer in enumerate(network.backbone.layers)}
    stages["tap.fp0"] = network.propagation[-1]
    taps = {}
    for name, layer in stages.items():
        layer.register_forward_hook(lambda _, __, y, name=name: taps.__setitem__(name, y.transpose(1, 2)))

    logits = network(inputs["points"], inputs["category_one_hot"][:, 0])
    return {"log_probs": logits.log_softmax(-1), **taps}


def by_index(features, idx):
    """Features with the slots in ascending order of the neighbours' indices."""
    order = idx.argsort(-1)
    return features.gather(2, order[..., None].expand_as(features))


def features(pack, weights, inputs):
    points, normals = inputs["points"].split(3, -1)
    centres, centre_normals = (
        gather_points(points, inputs["centre"]),
        gather_points(normals, inputs["centre"]),
    )
    shift = 2 if pack["build"]["S"] >= 1024 else 1
    found, idx = surface_features(centres, centre_normals, points, normals, inputs["idx"], shift=shift)
    return {"feat_by_index": by_index(found, idx), "ri_feat": found, "idx_ordered": idx}


def group_all(pack, weights, inputs):
    found, idx = global_geometry(inputs["points"], "lapack", "origin", "fixed")
    xyz = inputs["points"][..., :3]
    normal = weighted_normal(xyz - xyz.mean(1, keepdim=True), "lapack")[:, None]
    return {"feat_by_index": by_index(found, idx), "normal": normal, "ri_feat": found, "idx_ordered": idx}


def neighbour_attention(pack, weights, inputs):
    module = NeighbourAttention(pack["build"]["channels"])
    return attention(pack, module, weights, inputs["x"], axes=(0, 3, 2, 1), column_sum=None)


def point_attention(pack, weights, inputs):
    module = PointAttention(pack["build"]["channels"])
    return attention(pack, module, weights, inputs["x"], axes=(0, 2, 1), column_sum=1)


def attention(pack, module: nn.Module, weights, x, axes, column_sum):
    """Published layouts are channels-first; `axes` swaps to ours and back."""
    module.load_state_dict(convert_attentions(weights, lambda prefix: column_sum))
    x = x.requires_grad_()
    y = module.eval()(x.permute(axes)).permute(axes)
    probe = pack["probe"](y.shape)
    (grad,) = torch.autograd.grad((y * probe).sum(), x)
    return {"y": y, "grad.x.of.y": grad}
