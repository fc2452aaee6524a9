"""ConViT: classifiers, single attentions, and how gated attention starts."""

import re

from dense.backbones import ConViT
from dense.backbones.convit import GatedPositionalAttention
from dense.layers import SelfAttention, record_attention
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    if pack.has("blocks."):
        return network(pack)
    return attention(pack) if pack.has("proj.") else initial_state(pack)


def network(pack: Pack) -> Case:
    words = pack.words
    dims, _, _, patch = pack.shapes["patch_embed.proj.weight"]
    gates = [shape for key, shape in pack.shapes.items() if key.endswith("gating_param")]
    depth = pack.count(r"blocks\.(\d+)\.")
    heads = gates[0][0] if gates else words.get("num_heads") or dims // words.get("embed_dim", 48)
    size = words.get("img_size", 224)
    bias = any(key.endswith(("attn.qk.bias", "attn.qkv.bias")) for key in pack.shapes)
    words.agree(patch_size=patch, num_heads=heads, qkv_bias=bias)
    if words.get("embed_dim", dims // heads) not in (dims // heads, dims):  # of a head, as in the builders
        raise ValueError(f"word 'embed_dim' must be {dims // heads} here, found {words['embed_dim']}")
    local = words.get("local_up_to_layer", len(gates))
    if min(local, depth) != len(gates):
        raise ValueError(f"word 'local_up_to_layer' must be {len(gates)} here, found {local}")
    words.skip("variant", "locality_strength")  # weights are filled
    arch = {
        "embed_dims": dims,
        "depth": depth,
        "num_heads": heads,
        "patch_size": patch,
        "img_size": size,
        "local_up_to_layer": local,
    }

    def taps(backbone):
        found = {"patch_embed": (backbone.patch_embed, lambda y, *_: y.flatten(2).mT), "norm": backbone.norm}
        for i, block in enumerate(backbone.blocks):
            found |= {f"gpsa{i}": block.attn, f"mhsa{i}": block.attn, f"block{i}": block}
            found |= {f"block{i}_last_gpsa": block, f"block{i}_first_sa": block}
        return found

    options = {"reference_quirks": True, "qkv_bias": bias, "positions": pack.has("pos_embed")}
    return backbone_case(ConViT, pack, arch, taps, options)


def attention(pack: Pack) -> Case:
    words, gated = pack.words, pack.has("gating_param")
    dims = pack.shapes["proj.weight"][0]
    heads = pack.shapes["gating_param"][0] if gated else words["num_heads"]
    bias = pack.has("qk.bias") or pack.has("qkv.bias")
    words.agree(dim=dims, num_heads=heads, qkv_bias=bias)
    words.skip("op", "locality_strength")  # keys tell which; weights are filled
    model = (GatedPositionalAttention if gated else SelfAttention)(dims, heads, qkv_bias=bias)
    prefix = "blocks.0.attn."
    state = ConViT.convert_official({prefix + key: value for key, value in pack.weights.items()})

    def run(inputs):
        x = inputs["x"]
        side = round(x.shape[1] ** 0.5)
        context = (tuple(words.get("grid", (side, side))),) if gated else ()
        with record_attention(model) as recorded:
            model(x, *context)
        return {"y": model(x, *context), "attn": recorded[""][0]}

    words.skip("grid")
    return Case(model, strip_prefix(state, "backbone." + prefix), run=run)


def initial_state(pack: Pack) -> Case:
    words = pack.words
    words.skip("op")
    heads, strengths = words["heads"], words.get("locality_strength", 1)
    heads = heads if isinstance(heads, list) else [heads]
    strengths = strengths if isinstance(strengths, list) else [strengths] * len(heads)
    grid = tuple(words["grid"])

    def run(inputs):
        found = {}
        for count, strength in zip(heads, strengths, strict=True):
            attn = GatedPositionalAttention(4 * count, count)
            attn.init_local(strength)
            facts = {
                "pos_weight": attn.pos_proj.weight,
                "pos_attention": attn.positional_weights(grid)[None],
                "gate": attn.gate(),
            }
            for name in pack.facts:
                what = re.fullmatch(rf"(.*?)(_h{count})?(_s{strength:g})?", name)[1]
                if what in facts:
                    found[name] = facts[what]
        return found

    return Case(run=run)
