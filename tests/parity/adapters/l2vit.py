"""L2ViT: classifiers, single blocks, and linear attention alone."""

from dense.backbones import L2ViT
from dense.backbones.davit import Block
from dense.backbones.l2vit import GlobalAttention, GlobalBlock
from dense.layers import WindowAttention
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

HEAD_DIMS = 32


def adapt(pack: Pack) -> Case:
    pack.words.skip("model")
    if pack.has("downsample_layers."):
        return network(pack)
    return block(pack) if pack.has("block.") else operator(pack)


def bias(pack: Pack, start: str) -> bool:
    found = pack.has(f"{start}qkv.bias")
    pack.words.agree(qkv_bias=found)
    return found


def heads(pack: Pack, start: str) -> int:
    """Linear attention has a temperature for each head."""
    found = pack.shapes.get(f"{start}temperature", (pack.words.get("num_heads", 0),))[0]
    pack.words.agree(num_heads=found)
    return found


def network(pack: Pack) -> Case:
    depths = pack.depths("stages.{}.")
    dims = [pack.shapes[f"stages.{i}.0.norm1.weight"][0] for i in range(len(depths))]
    found = [
        pack.shapes.get(f"stages.{i}.1.attn.temperature", (d // HEAD_DIMS,))[0] for i, d in enumerate(dims)
    ]
    words = pack.words
    words.agree(depths=depths)
    window = words.get("window_size", 12 if "384" in words.get("model", "") else 7)
    arch = {"embed_dims": dims, "depths": depths, "num_heads": found, "window_size": window}

    def taps(backbone):
        stages = backbone.stages
        found = {"stem": backbone.downsamples[0]} | {f"stage{i + 1}": s[-1] for i, s in enumerate(stages)}
        return found | {"lwa0": stages[0][0]} | ({"lga0": stages[0][1]} if depths[0] > 1 else {})

    options = {"qkv_bias": bias(pack, "stages.0.0.attn."), "reference_quirks": True}
    return backbone_case(L2ViT, pack, arch, taps, options, double=True)


def block(pack: Pack) -> Case:
    """A published block takes (B, C, H, W) and returns (B, H * W, C)."""
    words, channels = pack.words, pack.shapes["block.norm1.weight"][0]
    words.agree(dim=channels)
    words.skip("block")
    found, biased = heads(pack, "block.attn."), bias(pack, "block.attn.")
    everywhere = pack.has("block.attn.temperature")
    if everywhere:
        model = GlobalBlock(channels, GlobalAttention(channels, found, biased), 0.0)
    else:
        attn = WindowAttention(channels, found, words.get("window_size", 7), biased, mask_padding=False)
        model = Block(channels, attn, 0.0)
    start = f"stages.0.{int(everywhere)}."
    named = {start + key: value for key, value in pack.part("block.").items()}
    state = strip_prefix(L2ViT.convert_official(named), f"backbone.{start}")
    return Case(model, state, run=lambda inputs: model(inputs["x"].permute(0, 2, 3, 1)).flatten(1, 2))


def operator(pack: Pack) -> Case:
    channels = pack.shapes["proj.weight"][0]
    pack.words.agree(dim=channels)
    pack.words.skip("operator")
    return Case(GlobalAttention(channels, heads(pack, ""), bias(pack, "")), pack.weights)
