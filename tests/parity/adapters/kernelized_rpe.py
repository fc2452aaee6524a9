"""Kernelised attention with relative positions: the operator, and a layer."""

import torch
from torch import Tensor

from dense.layers import KernelizedAttention
from dense.ops import toeplitz_attention

from ..adapt import Case, Pack


def adapt(pack: Pack) -> Case:
    return (layer if pack.weights else operator)(pack)


def options_of(pack: Pack) -> dict:
    words, inputs = pack.words, pack.inputs
    words.only("feature_map", "positive")
    words.agree(m=len(inputs["features"]))
    clip, grid = words.get("clip"), words.get("grid")
    return {
        "normalize": words.get("normalise", True),
        "causal": words.get("causal", False),
        "clip": clip,
        "grid": None if grid is None else tuple(grid),
    }


def operator(pack: Pack) -> Case:
    options = options_of(pack)
    pack.words.agree(heads=pack.inputs["q"].shape[1], dim=pack.inputs["q"].shape[3])

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors = [inputs[name] for name in ("q", "k", "v", "features")]
        return {"out": toeplitz_attention(*tensors, inputs.get("bias"), **options)}

    return Case(run=run, once=True)


def layer(pack: Pack) -> Case:
    options, inputs = options_of(pack), pack.inputs
    grid, clip = options.pop("grid"), options.pop("clip")
    dims = pack.shapes["proj.weight"][0]
    heads = pack.words.get("heads", dims // inputs["features"].shape[1])
    pack.words.agree(dim=dims)
    size = {"grid": grid} if grid else {"clip": clip} if clip else {"length": inputs["x"].shape[1]}
    model = KernelizedAttention(
        dims,
        heads,
        num_features=len(inputs["features"]),
        qkv_bias="qkv.bias" in pack.shapes,
        **size,
        **options,
    )
    state = {"bias_table": torch.zeros_like(model.bias_table), "features": inputs["features"], **pack.weights}
    if "bias" in inputs:
        state["bias_table"] = inputs["bias"]

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out": model(inputs["x"], grid)}

    return Case(model, state, run=run)
