"""Names of the published weights of Relation-DETR, and ours."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from pointsuite.engine.checkpoint import rename_keys

COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]  # of its 80 classes


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """See :meth:`RelationDETR.convert_official`."""
    state_dict = {key.removeprefix("transformer."): value for key, value in state_dict.items()}
    state = rename_keys(state_dict, _rules(state_dict))
    if "decoder.relation.proj.weight" in state:  # of a 1x1 convolution
        state["decoder.relation.proj.weight"] = state["decoder.relation.proj.weight"].flatten(1)
    for key in [key for key in state if key.endswith("running_mean")]:  # frozen norms count no batches
        state.setdefault(key.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    return state


def _rules(state_dict: Mapping[str, Tensor]) -> list[tuple[str, str | None]]:
    layers = len(_in_order(state_dict, r"decoder\.class_head\.(\d+)\.weight"))
    kernels = [state_dict[key].shape[-1] for key in _in_order(state_dict, r"neck\.convs\.(\d+)\.0\.weight")]
    maps = kernels.count(1)  # of the backbone; coarser ones are made by larger convolutions
    necks = [f"convs.{i}" if i < maps else f"extra_convs.{i - maps}" for i in range(len(kernels))]
    layer = r"(encoder|decoder)\.layers\.(\d+)\."
    return [
        (r"(.*\.)?_classes_", None),
        (r"(backbone\..*)", r"\1"),
        *((rf"neck\.convs\.{i}\.0\.(.*)", rf"neck.{name}.conv.\1") for i, name in enumerate(necks)),
        *((rf"neck\.convs\.{i}\.1\.(.*)", rf"neck.{name}.gn.\1") for i, name in enumerate(necks)),
        (r"level_embeds", "level_embed"),
        (r"enc_output\.(.*)", r"memory_trans_fc.\1"),
        (r"enc_output_norm\.(.*)", r"memory_trans_norm.\1"),
        (r"tgt_embed\.(.*)", r"query_embedding.\1"),
        (r"hybrid_tgt_embed\.(.*)", r"hybrid_embedding.\1"),
        (r"encoder_class_head\.(.*)", rf"bbox_head.cls_branches.{layers}.\1"),
        (r"hybrid_class_head\.(.*)", r"bbox_head.hybrid_cls_branch.\1"),
        (r"decoder\.class_head\.(.*)", r"bbox_head.cls_branches.\1"),
        *_mlp_rules(r"encoder_bbox_head", f"reg_branches.{layers}"),
        *_mlp_rules(r"hybrid_bbox_head", "hybrid_reg_branch"),
        *_mlp_rules(r"decoder\.bbox_head\.(\d+)", r"reg_branches.\1", 2),
        (r"decoder\.position_relation_embedding\.pos_proj\.0\.(.*)", r"decoder.relation.proj.\1"),
        (layer + r"linear1\.(.*)", r"\1.layers.\2.ffn.layers.0.0.\3"),
        (layer + r"linear2\.(.*)", r"\1.layers.\2.ffn.layers.1.\3"),
        (r"decoder\.layers\.(\d+)\.self_attn\.(.*)", r"decoder.layers.\1.self_attn.attn.\2"),
        (layer + r"((?:self|cross)_attn\..*)", r"\1.layers.\2.\3"),
        (r"encoder\.layers\.(\d+)\.norm1\.(.*)", r"encoder.layers.\1.norms.0.\2"),
        (r"encoder\.layers\.(\d+)\.norm2\.(.*)", r"encoder.layers.\1.norms.1.\2"),
        # their first follows the cross-attention, which comes second
        (r"decoder\.layers\.(\d+)\.norm1\.(.*)", r"decoder.layers.\1.norms.1.\2"),
        (r"decoder\.layers\.(\d+)\.norm2\.(.*)", r"decoder.layers.\1.norms.0.\2"),
        (r"decoder\.layers\.(\d+)\.norm3\.(.*)", r"decoder.layers.\1.norms.2.\2"),
        (r"(encoder\.memory_fusion\..*)", r"\1"),
        (r"(decoder\.(?:norm|ref_point_head|query_scale)\..*)", r"\1"),
        (r"denoising_generator\.label_encoder\.(.*)", r"dn_query_generator.label_embedding.\1"),
    ]


def _in_order(state_dict: Mapping[str, Tensor], pattern: str) -> list[str]:
    """Keys of that pattern, by the number in it."""
    matches = filter(None, (re.fullmatch(pattern, key) for key in state_dict))
    return [match[0] for match in sorted(matches, key=lambda match: int(match[1]))]


def _mlp_rules(theirs: str, ours: str, group: int = 1) -> list[tuple[str, str]]:
    return [(rf"{theirs}\.layers\.{i}\.(.*)", rf"bbox_head.{ours}.{2 * i}.\{group}") for i in range(3)]
