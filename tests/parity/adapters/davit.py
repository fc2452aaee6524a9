"""DaViT: classifiers, dense backbones, single blocks and attentions."""

import re

from dense.backbones import DaViT
from dense.backbones.davit import Block, ChannelAttention, WindowAttention

from ..adapt import Case, Pack, backbone_case

HEAD_DIMS = 32


def adapt(pack: Pack) -> Case:
    return (network if pack.has("patch_embeds.") else operator)(pack)


def network(pack: Pack) -> Case:
    words, name = pack.words, pack.words.get("variant", "").lower()
    words.skip("op")
    depths = pack.depths("main_blocks.{}.")
    dims = [pack.shapes[f"patch_embeds.{i}.proj.weight"][0] for i in range(len(depths))]
    words.agree(depths=depths, embed_dims=dims)
    variant = DaViT.archs[next((arch for arch in DaViT.archs if arch in name), "tiny")]
    named = re.search(r"window(\d+)", name)
    arch = {
        **variant,
        "embed_dims": dims,
        "depths": depths,
        "num_heads": words.get("num_heads", [channels // HEAD_DIMS for channels in dims]),
        "window_size": words.get("window_size", int(named[1]) if named else variant["window_size"]),
        "overlapped_patch": pack.shapes["patch_embeds.1.proj.weight"][-1] == 3,
    }

    def taps(backbone):
        first, stages = backbone.stages[0][0], backbone.stages
        found = {"s0_spatial": first[0], "s0_channel": first[1]}
        found |= {f"embed{i}": module for i, module in enumerate(backbone.downsamples)}
        found |= {f"s{i}": stage[-1] for i, stage in enumerate(stages)}
        return found | {f"s{i}_last": stage[-1] for i, stage in enumerate(stages)}

    options = {"qkv_bias": bias(pack, "main_blocks.0.0.0."), "ffn": pack.has("main_blocks.0.0.0.mlp.")}
    return backbone_case(DaViT, pack, arch, taps, {"reference_quirks": True, **options}, once=True)


def bias(pack: Pack, prefix: str) -> bool:
    found = pack.has(f"{prefix}attn.qkv.bias") or pack.has(f"{prefix}qkv.bias")
    pack.words.agree(qkv_bias=found)
    return found


def operator(pack: Pack) -> Case:
    """Published operators take tokens (B, N, C); alone, window attention takes (windows, w * w, C)."""
    words, alone = pack.words, not pack.has("attn.")
    channels = pack.shapes["proj.weight" if alone else "attn.proj.weight"][0]
    words.agree(dim=channels)
    heads = words.get("num_heads", channels // HEAD_DIMS)
    size = words.get("window_size", 7)
    if words["op"].startswith("Channel"):
        attention = ChannelAttention(channels, heads, bias(pack, ""))
    else:
        attention = WindowAttention(channels, heads, size, bias(pack, ""), mask_padding=False)
    words.only("op", "ChannelAttention", "WindowAttention", "ChannelBlock", "SpatialBlock")
    if alone:
        words.skip("size")
        side = 1 if isinstance(attention, ChannelAttention) else size
        return Case(
            attention, pack.weights, run=lambda x: attention(x["x"].unflatten(1, (side, -1))).flatten(1, 2)
        )
    ffn, height_width = pack.has("mlp."), tuple(words["size"])
    block = Block(channels, attention, 0.0, ffn)
    taps = {"attn_windows": attention.proj} | ({"mlp": block.mlp} if ffn else {})

    def run(inputs):
        return block(inputs["x"].unflatten(1, height_width)).flatten(1, 2)

    return Case(block, pack.weights, taps, run)
