"""RISurConv: networks in canonical order and as published, and single operators."""

import pointsuite
from pointsuite.layers import NeighbourAttention, PointAttention
from pointsuite.models.risurconv import convert_attentions, global_geometry
from pointsuite.ops import gather_points, surface_features, weighted_normal

from ..adapt import Case, Pack

MANY = 1024  # centres, from which on the features look two slots ahead


def adapt(pack: Pack) -> Case:
    if pack.has("sc0."):
        return classifier(pack)
    if pack.has("sa0."):
        return part_segmenter(pack)
    op = pack.words["op"]
    runs = {"RISP_features": features, "sample_and_group_all": group_all}
    if op in runs:
        return runs[op](pack)
    pack.words.only("op", "SA_Layer_2d", "SA_Layer", *runs)
    return attention(pack, NeighbourAttention if op == "SA_Layer_2d" else PointAttention)


def order(pack: Pack) -> dict[str, str]:
    """The canonical order, unless the notes say that the published code was run as it is."""
    if pack.notes.startswith("Published code"):
        return {"neighbour_order": "torch", "reference_sign": "rounded"}
    return {"neighbour_order": "sorted", "reference_sign": "fixed"}


def classifier(pack: Pack) -> Case:
    classes = len(pack.weights["fc3.bias"])
    pack.words.agree(num_classes=classes, num_points=pack.inputs["points"].shape[1])
    model = pointsuite.create_model(
        "risurconv_cls",
        num_classes=classes,
        width=pack.words.get("width", 2),
        batch_attention="published",
        global_sign="lapack",
        global_origin="origin",
        global_attention="published",
        **order(pack),
    )
    kept = {}

    def keep_l4(module, inputs, y):
        kept["l4"] = y.transpose(1, 2)

    model.global_layer.register_forward_hook(keep_l4)
    taps = {f"sc{i}": layer for i, layer in enumerate([*model.backbone.layers, model.global_layer])}
    taps["encoder"] = (model.encoder, lambda y, *_: y[:, None])

    def run(inputs):
        return {"log_probs": model(inputs["points"]).log_softmax(-1), **kept}

    return Case(model, model.convert_official(pack.weights), taps, run, once=True)


def part_segmenter(pack: Pack) -> Case:
    options = {
        "num_parts": len(pack.weights["conv2.bias"]),
        "num_categories": pack.inputs["category_one_hot"].shape[-1],
    }
    pack.words.agree(**options, num_points=pack.inputs["points"].shape[1])
    model = pointsuite.create_model("risurconv_partseg", **options, **order(pack))
    taps = {f"sa{i}": layer for i, layer in enumerate(model.backbone.layers)}
    taps["fp0"] = model.propagation[-1]

    def run(inputs):
        return model(inputs["points"], inputs["category_one_hot"][:, 0]).log_softmax(-1)

    return Case(model, model.convert_official(pack.weights), taps, run, once=True)


def by_index(features, idx):
    """Features with the slots in ascending order of the neighbours' indices."""
    order = idx.argsort(-1)
    return features.gather(2, order[..., None].expand_as(features))


def features(pack: Pack) -> Case:
    centres, neighbours = pack.inputs["idx"].shape[1:]
    pack.words.agree(S=centres, K=neighbours)

    def run(inputs):
        points, normals = inputs["points"].split(3, -1)
        centre = (gather_points(points, inputs["centre"]), gather_points(normals, inputs["centre"]))
        shift = 2 if centres >= MANY else 1
        found, idx = surface_features(*centre, points, normals, inputs["idx"], shift=shift)
        return {"feat_by_index": by_index(found, idx), "ri_feat": found, "idx_ordered": idx}

    return Case(run=run)


def group_all(pack: Pack) -> Case:
    def run(inputs):
        found, idx = global_geometry(inputs["points"], "lapack", "origin", "fixed")
        xyz = inputs["points"][..., :3]
        normal = weighted_normal(xyz - xyz.mean(1, keepdim=True), "lapack")[:, None]
        return {"feat_by_index": by_index(found, idx), "normal": normal, "ri_feat": found, "idx_ordered": idx}

    return Case(run=run)


def attention(pack: Pack, kind: type[NeighbourAttention | PointAttention]) -> Case:
    """Published layouts are channels-first; the same permutation leads to ours and back."""
    axes, column_sum = ((0, 3, 2, 1), None) if kind is NeighbourAttention else ((0, 2, 1), 1)
    pack.words.only("layout", "B,C,K,S" if kind is NeighbourAttention else "B,C,N")
    channels = len(pack.weights["after_norm.bias"])
    pack.words.agree(channels=channels)
    model = kind(channels)
    state = convert_attentions(pack.weights, lambda prefix: column_sum)
    return Case(model, state, run=lambda inputs: model(inputs["x"].permute(axes)).permute(axes), once=True)
