"""DHVT: classifiers, and single embeddings, attentions, feed-forwards and blocks."""

import re
from math import isqrt

from torch import nn

from dense.backbones import DHVT
from dense.backbones.dhvt import Block, DynamicFeedForward, HeadTokenAttention, OverlappedPatchEmbed
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

OPERATORS = {
    "conv1.": "blocks.0.mlp.",
    "ht_proj.": "blocks.0.attn.",
    "attn.": "blocks.0.",
    "": "patch_embed.",
}


def adapt(pack: Pack) -> Case:
    return (network if pack.has("cls_token") else operator)(pack)


def network(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    words.skip("variant", "tokens", "op")
    words.only("mode", "eval")
    _, heads, dims = shapes["blocks.0.attn.pos_embed"]
    patch = patch_size(pack, "patch_embed.")
    biased = pack.has("blocks.0.attn.qkv.bias")
    words.agree(dim=dims, num_heads=heads, qkv_bias=biased)
    arch = {
        **DHVT.archs["tiny_cifar_patch4"],
        "embed_dims": dims,
        "depth": pack.count(r"blocks\.(\d+)\."),
        "num_heads": heads,
        "patch_size": patch,
        "img_size": 14 * patch,
    }

    def taps(backbone):
        found = {"sope": backbone.patch_embed, "norm": backbone.norm}
        for i, block in enumerate(backbone.blocks):
            found |= {f"b{i}": block, f"b{i}_attn": block.attn, f"b{i}_daff": block.mlp}
        return found

    return backbone_case(DHVT, pack, arch, taps, {"qkv_bias": biased, "reference_quirks": True})


def operator(pack: Pack) -> Case:
    words = pack.words
    words.skip("op")
    start = next(start for key, start in OPERATORS.items() if pack.has(key))
    state = DHVT.convert_official({start + key: value for key, value in pack.weights.items()})
    model = make(pack, start)
    train = words.get("mode", "eval") == "train"
    words.only("mode", "eval", "train")
    stated = re.search(r"(\d+) ?x ?(\d+)", words.get("tokens", ""))

    def run(inputs):
        x = inputs["x"]
        if isinstance(model, Block | DynamicFeedForward):
            side = isqrt(x.shape[1] - 1)
            y = model(x, (int(stated[1]), int(stated[2])) if stated else (side, side))
        else:
            y = model(x)
        found = {"y": y}
        if isinstance(model, DynamicFeedForward):
            for i, layer in enumerate((model.conv1, model.conv2, model.conv3), start=1):
                found[f"bn{i}_running_mean"] = layer.norm.running_mean
                found[f"bn{i}_running_var"] = layer.norm.running_var
        return found

    return Case(model, strip_prefix(state, f"backbone.{start}"), run=run, train=train)


def make(pack: Pack, start: str) -> nn.Module:
    words, shapes = pack.words, pack.shapes
    if start == "patch_embed.":
        channels, dims = (shapes[f"{name}_affine.alpha"][1] for name in ("pre", "post"))
        words.agree(dim=dims)
        return OverlappedPatchEmbed(channels, dims, patch_size(pack, ""))
    if start == "blocks.0.mlp.":
        hidden, dims = shapes["conv1.weight"][:2]
        words.agree(dim=dims, in_features=dims, hidden_features=hidden)
        return DynamicFeedForward(dims, hidden)
    whole = start == "blocks.0."
    inner = "attn." if whole else ""
    _, heads, dims = shapes[f"{inner}pos_embed"]
    biased = pack.has(f"{inner}qkv.bias")
    words.agree(dim=dims, num_heads=heads, qkv_bias=biased)
    attn = HeadTokenAttention(dims, heads, qkv_bias=biased)
    if not whole:
        return attn
    hidden = len(pack.weights["mlp.conv1.weight"])
    words.agree(hidden_features=hidden)
    return Block(dims, attn, DynamicFeedForward(dims, hidden))


def patch_size(pack: Pack, start: str) -> int:
    return 2 ** len([key for key in pack.shapes if re.fullmatch(rf"{start}proj\.\d\.0\.weight", key)])
