"""BiFormer: classifiers, dense backbones and single attentions of both published implementations."""

import torch
from torch import Tensor

from dense.backbones import BiFormer
from dense.backbones.biformer import FullAttention, RoutingAttention, routed_attention
from dense.ops import partition_windows
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

PREFIX = "stages.0.0.attn."


def adapt(pack: Pack) -> Case:
    return (network if pack.has("downsample_layers.") else attention)(pack)


def network(pack: Pack) -> Case:
    words = pack.words
    blocks = "stages.{}.blocks." if pack.has("stages.0.blocks.") else "stages.{}."
    depths = pack.depths(blocks)
    dims = [pack.shapes[f"{blocks.format(i)}0.norm1.weight"][0] for i in range(len(depths))]
    words.agree(depth=depths, embed_dim=dims)
    words.only("side_dwconv", 5)
    words.skip("variant", "auto_pad")  # padding does nothing where windows fit
    nchw = any("qkv_linear" in key for key in pack.shapes) or "nchw" in words.get("variant", "")
    topks = words.get("topks", [1, 4, 16, -2])
    if 0 in topks or (-1 in topks and not nchw):  # a stack of convolutions; attention without LePE
        raise ValueError(f"word 'topks' must have no 0, and -1 in the NCHW design only, found {topks}")
    design = ("stl_nchw" if nchw else "stl") if ".blocks." in blocks else "biformer"
    arch = {**BiFormer.archs["tiny"], "embed_dims": dims, "depths": depths, "design": design}

    def taps(backbone):
        found = {f"stage{i + 1}": stage[-1] for i, stage in enumerate(backbone.stages)}
        found |= {f"bra_s{i + 1}b0": stage[0].attn for i, stage in enumerate(backbone.stages)}
        return found | {"stem": backbone.downsamples[0]}

    options = {"num_windows": words.get("n_win", 7), "topks": [None if k < 0 else k for k in topks]}
    return backbone_case(BiFormer, pack, arch, taps, {"reference_quirks": True, **options})


def attention(pack: Pack) -> Case:
    words, nchw = pack.words, pack.words.get("layout", "NHWC") == "NCHW"
    words.only("layout", "NHWC", "NCHW")
    words.skip("auto_pad")
    channels, lepe_size = pack.shapes["lepe.weight"][0], pack.shapes["lepe.weight"][-1]
    words.agree(dim=channels, side_dwconv=lepe_size)
    heads = words.get("num_heads", 8)
    if "topk" in words:
        options = {"floor_windows": nchw, "padding": "keys" if nchw else "input", "lepe_size": lepe_size}
        model = RoutingAttention(channels, heads, words.get("n_win", 7), words["topk"], **options)
    else:
        model = FullAttention(channels, heads, lepe_size=lepe_size, lepe_of="values" if nchw else "input")
    state = BiFormer.convert_official({PREFIX + key: value for key, value in pack.weights.items()})

    def run(inputs):
        x = inputs["x"].permute(0, 2, 3, 1) if nchw else inputs["x"]
        y = model(x)
        found = {"y": y.permute(0, 3, 1, 2) if nchw else y}
        return found if isinstance(model, FullAttention) else found | routing(model, x)

    return Case(model, strip_prefix(state, "backbone." + PREFIX), run=run, once=True)


def routing(model: RoutingAttention, x: Tensor) -> dict[str, Tensor]:
    """What the attention chooses, and its weights where its windows fit."""
    qkv, size = model.qkv(x), model.window_size(*x.shape[1:3])
    weights, routes = model.route(qkv, size)
    found = {"r_weight": weights, "r_idx": routes.float()}
    if not (x.shape[1] % size[0] or x.shape[2] % size[1]):
        found["attn"] = attention_weights(
            model, partition_windows(qkv, size).unflatten(0, (len(qkv), -1)), routes
        )
    return found


def attention_weights(attention: RoutingAttention, qkv: Tensor, routes: Tensor) -> Tensor:
    """What each pixel gives to those of its windows: with unit vectors for values, the operator tells."""
    batch, windows, pixels, _ = qkv.shape
    heads, width = attention.num_heads, attention.qk_dims
    units = torch.eye(windows * pixels).unflatten(0, (windows, pixels)).repeat(batch, 1, 1, heads)
    kv = torch.cat((qkv[..., width : 2 * width], units), -1)
    y = routed_attention(qkv[..., :width], kv, routes, heads, attention.scale)
    y = y.unflatten(-1, (heads, windows, pixels)).permute(0, 1, 3, 2, 4, 5).flatten(0, 1)
    index = routes.flatten(0, 1)[:, None, None, :, None].expand(*y.shape[:3], -1, pixels)
    return y.gather(3, index).flatten(3)  # (B * windows, heads, pixels, k * pixels)
