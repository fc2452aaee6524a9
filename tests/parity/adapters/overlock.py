"""OverLoCK: classifiers, dense backbones and single blocks, also merged."""

import torch
from torch import nn

from dense.backbones import OverLoCK
from dense.backbones.overlock import (
    HEAD_DIMS,
    ContMixBlock,
    DilatedReparam,
    DynamicConvBlock,
    RepConvBlock,
    merge_weights,
    rename_block,
)
from dense.layers import switch_to_deploy

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    pack.words.skip("use_gemm")  # another implementation of the same convolution
    return (network if pack.has("patch_embed1.") else operator)(pack)


def network(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    words.skip("variant")
    depths = pack.depths("blocks{}.", 1)
    sub_depths = pack.depths("sub_blocks{}.", 3)
    dims = [shapes[f"blocks{i}.0.proj.0.weight"][0] for i in range(1, 5)]
    bias = [shapes[f"sub_blocks{i}.0.rpb1"] for i in (3, 4)]
    arch = {
        "embed_dims": dims,
        "depths": depths,
        "sub_depths": sub_depths,
        "num_heads": [groups // 2 for groups, *_ in bias],
        "kernel_sizes": [shapes[f"blocks{i}.0.proj.1.lk_origin.weight"][-1] for i in range(1, 5)],
        "small_kernel": (bias[0][-1] + 1) // 2,
        "mlp_ratios": [
            shapes["blocks1.0.proj.4.weight"][0] / dims[0],
            shapes["sub_blocks3.0.mlp.0.weight"][0] / dims[2],
        ],
    }
    words.agree(kernel_size=arch["kernel_sizes"], smk_size=arch["small_kernel"], num_heads=arch["num_heads"])
    words.only("res_scale", True)
    words.only("ls_init_value", 1)
    words.agree(ctx_dim=dims[3])
    if pack.has("head.0.") and shapes["head.0.weight"][0] != HEAD_DIMS:
        raise ValueError(f"the head's width is {shapes['head.0.weight'][0]}, wanted {HEAD_DIMS}")

    def taps(backbone):
        first, second, third, last = backbone.stages
        width = dims[2]
        return {
            "stem": backbone.downsamples[0],
            "stage1": first[-1],
            "stage2": second[-1],
            "stage3": backbone.base[-1],
            "stage4": backbone.overview.blocks[-1],
            "high_level_proj": backbone.overview.proj,
            "sub3_b0": (third[0], lambda y, x, _: y[:, :width]),
            "sub3_last": (third[-1], lambda y, x, _: y[:, :width]),
            "sub4_last": last[-1],
        }

    return backbone_case(OverLoCK, pack, arch, taps, {"deploy": is_merged(pack)}, double=True)


def operator(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    if pack.has("lk_origin."):
        return large_kernel(pack)
    state = rename_block(pack.weights)
    dynamic = "mixing.rpb.0" in state
    channels = shapes["gate.0.weight" if dynamic else "dwconv.weight"][0]
    size = shapes[f"{'lepe.0' if dynamic else 'proj.1'}.lk_origin.weight"][-1]
    hidden = shapes["mlp.0.weight" if dynamic else "proj.4.weight"][0]
    scaled = "ls1.weight" in state or "ls.weight" in state
    words.agree(dim=channels, kernel_size=size)
    words.agree(mlp_ratio=hidden / channels)
    words.skip("ls_init_value")
    options = {"mlp_ratio": hidden / channels, "layer_scale": 1.0 if scaled else None}
    if not dynamic:
        words.skip("is_first", "is_last")
        model: nn.Module = RepConvBlock(channels, size, res_scale=words.get("res_scale", True), **options)
        return case(pack, model, state)
    groups, span, _ = shapes["rpb1"]
    words.agree(num_heads=groups // 2, smk_size=(span + 1) // 2)
    options["small_kernel"] = (span + 1) // 2
    context = shapes["norm1.weight"][0] - channels
    if not context:
        words.skip("is_first", "is_last")
        model = ContMixBlock(channels, size, groups // 2, res_scale=words.get("res_scale", False), **options)
        return case(pack, model, state)
    words.agree(ctx_dim=4 * context, is_first="x_scale.weight" not in state)
    model = DynamicConvBlock(
        channels,
        size,
        groups // 2,
        context_channels=context,
        is_first="x_scale.weight" not in state,
        res_scale=words.get("res_scale", True),
        **options,
    )
    last = words.get("is_last", False)

    def run(inputs):
        x, h, overview = inputs.values()
        y = model(torch.cat((x, h), 1), overview)
        return [y] if last else y.split((channels, context), 1)

    return case(pack, model, state, run=run)


def large_kernel(pack: Pack) -> Case:
    """Without the norm that follows it in a block."""
    channels, _, size, _ = pack.shapes["lk_origin.weight"]
    pack.words.agree(dim=channels, kernel_size=size)
    state = rename_block({f"proj.1.{key}": value for key, value in pack.weights.items()})
    if is_merged(pack):
        model: nn.Module = nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels)
        return Case(model, {key.removeprefix("large.conv."): value for key, value in state.items()})
    model = DilatedReparam(channels, size)
    model.norm = nn.Identity()
    state = {key.removeprefix("large."): value for key, value in state.items()}
    return Case(model, state, run=lambda inputs: model.forward_branches(*inputs.values()))


def case(pack: Pack, model: nn.Module, state: dict, **kwargs) -> Case:
    if is_merged(pack):
        model, state = switch_to_deploy(model), merge_weights(state)
    return Case(model, state, **kwargs)


def is_merged(pack: Pack) -> bool:
    return any(key.endswith("lk_origin.bias") for key in pack.shapes)
