"""HaloNet: classifiers, single bottlenecks and attentions."""

import re

from dense.backbones import HaloNet
from dense.backbones.halonet import Bottleneck, HaloAttention, NormedAttention
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    if pack.has("stem."):
        return network(pack)
    return bottleneck(pack) if pack.has("conv1_1x1.") else operator(pack)


def network(pack: Pack) -> Case:
    words, shapes, stage = pack.words, pack.shapes, "stages.{}."
    words.skip("op")
    name = words.get("variant", "h1").lower()
    variants = sorted(HaloNet.archs, key=len, reverse=True)
    known = HaloNet.archs[next((arch for arch in variants if re.search(rf"{arch}\b", name)), "h1")]
    depths = pack.depths(stage)
    words.agree(depths=depths)
    blocks = [[f"{stage.format(i)}{j}." for j in range(depth)] for i, depth in enumerate(depths)]
    widths = [shapes[f"{starts[0]}conv1_1x1.conv.weight"][0] for starts in blocks]
    dims = [shapes[f"{starts[0]}conv3_1x1.conv.weight"][0] for starts in blocks]
    convs = [tuple(j for j, s in enumerate(starts) if pack.has(f"{s}conv2_kxk.")) for starts in blocks]
    heads, values = list(known["num_heads"]), known["value_ratio"]
    window = known["block_size"] + 2 * known["halo_size"]
    for i, starts in enumerate(blocks):
        for start in starts:
            if pack.has(f"{start}self_attn."):
                rows, head_dims = shapes[f"{start}self_attn.pos_embed.height_rel"]
                heads[i] = widths[i] // head_dims
                values = shapes[f"{start}post_attn.weight"][0] / widths[i]
                window = (rows + 1) // 2
    size = words.get("block_size", words.get("block", known["block_size"]))
    halo = words.get("halo_size", words.get("halo", (window - size) // 2))
    if size + 2 * halo != window:
        raise ValueError(
            f"blocks of {size} and halos of {halo} make no windows of {window}, as the pack shows"
        )
    for word in ("heads", "num_heads"):
        words.agree(**{word: heads if isinstance(words.get(word), list) else heads[-1]})
    final = shapes["final_conv.conv.weight"][0] if pack.has("final_conv.") else 0
    words.agree(d_f=final, r_v=values, r_b=dims[0] / widths[0])
    biased = any(key.endswith("self_attn.q.bias") for key in shapes)
    words.agree(qkv_bias=biased)
    arch = {
        "embed_dims": dims,
        "widths": widths,
        "depths": depths,
        "num_heads": heads,
        "value_ratio": values,
        "block_size": size,
        "halo_size": halo,
        "conv_blocks": convs,
        "stem": "tiered" if pack.has("stem.conv2.") else "conv",
        "act": words.get("act", known["act"]),
        "final_dims": final,
    }

    def taps(backbone):
        found = {"stem": backbone.downsamples[0]}
        for i, blocks in enumerate(backbone.stages):
            found[f"s{i}"] = blocks[-1]
            for j, block in enumerate(blocks):
                if j not in convs[i]:
                    found[f"s{i}b{j}_attn"] = block.middle.attn
        return found

    scaled = words.get("scale_pos_embed", False)
    options = {"qkv_bias": biased, "scale_positions": scaled, "reference_quirks": True}
    return backbone_case(HaloNet, pack, arch, taps, options)


def bottleneck(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    width, channels = shapes["conv1_1x1.conv.weight"][:2]
    middle, out = shapes["conv3_1x1.conv.weight"][1], shapes["conv3_1x1.conv.weight"][0]
    words.skip("op")
    words.agree(dim=channels, dim_out=out)
    attn = attention(pack, "self_attn.")
    model = Bottleneck(
        channels,
        out,
        NormedAttention(attn, middle),
        (width, middle),
        words.get("stride", 1),
        words.get("act", "relu"),
    )
    state = HaloNet.convert_official({f"stages.0.0.{k}": v for k, v in pack.weights.items()})
    return Case(model, strip_prefix(state, "backbone.stages.0.0."), {"attn": attn})


def operator(pack: Pack) -> Case:
    pack.words.skip("op")
    model = attention(pack, "")
    pack.words.agree(dim=model.q.in_features, dim_out=model.kv.out_features - model.q.out_features)
    state = HaloNet.convert_official({f"stages.0.0.self_attn.{k}": v for k, v in pack.weights.items()})
    state = strip_prefix(state, "backbone.stages.0.0.middle.attn.")
    return Case(model, state, run=lambda x: model(x["x"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def attention(pack: Pack, start: str) -> HaloAttention:
    """That of the weights whose keys start so; each width but those of windows can be read from them."""
    words, shapes = pack.words, pack.shapes
    queries, channels = shapes[f"{start}q.weight"][:2]
    rows, head_dims = shapes[f"{start}pos_embed.height_rel"]
    heads, biased = queries // head_dims, pack.has(f"{start}q.bias")
    words.agree(heads=heads, num_heads=heads, dim_head=head_dims, qkv_bias=biased)
    out = shapes[f"{start}kv.weight"][0] - queries
    size = words.get("block_size", words.get("block", 8))
    halo = words.get("halo_size", words.get("halo", (rows + 1) // 4 - size // 2))
    words.skip("r_v", "r_b")
    ratio = words.get("qk_ratio")
    return HaloAttention(
        channels,
        out,
        heads,
        size,
        halo,
        head_dims=head_dims if "dim_head" in words or ratio is None else None,
        qk_ratio=ratio or 1.0,
        stride=words.get("stride", 1),
        qkv_bias=biased,
        scale_positions=words.get("scale_pos_embed", False),
        reference_quirks=True,
    )
