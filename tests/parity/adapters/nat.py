"""NAT: classifiers, dense backbones of all layouts, and the layers of 1 to 3 axes."""

import re

from dense.backbones import NAT
from dense.layers import NeighborhoodAttention1d, NeighborhoodAttention2d, NeighborhoodAttention3d

from ..adapt import Case, Pack, backbone_case

LAYERS = (NeighborhoodAttention1d, NeighborhoodAttention2d, NeighborhoodAttention3d)
HEAD_DIMS = 32
DILATIONS = {"nat": [[8], [4], [2], [1]], "swin": [[8], [4], [2], [1]], "isotropic": [[2]]}


def adapt(pack: Pack) -> Case:
    return (network if pack.has("patch_embed.") else layer)(pack)


def network(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    name = f"{words.get('variant', '')} {words.get('op', '')}".lower()
    layout, blocks = "isotropic", "layers.{1}."
    depths = [pack.count(r"layers\.(\d+)\.")]
    if pack.has("levels.") or pack.has("layers.0.blocks."):
        layout, blocks = (
            ("nat", "levels.{}.blocks.{}.") if pack.has("levels.") else ("swin", "layers.{}.blocks.{}.")
        )
        depths = pack.depths(blocks.partition("{}.blocks")[0] + "{}.blocks.")
    first = [blocks.format(i, 0) for i in range(len(depths))]
    dims = [shapes[f"{start}norm1.weight"][0] for start in first]
    heads = [shapes[f"{start}attn.rpb"][0] for start in first]
    words.agree(depths=depths, embed_dim=dims[0])
    given = words.get("num_heads", heads)
    if (given if isinstance(given, list) else [given] * len(heads)) != heads:
        raise ValueError(f"word 'num_heads' is {given}, but the pack shows {heads}")
    ratio = shapes[f"{first[0]}mlp.fc1.weight"][0] / dims[0]
    words.agree(mlp_ratio=ratio)
    whole = pack.has(f"{first[0]}attn.relative_position_index") or "rpb" in name
    window = (shapes[f"{first[0]}attn.rpb"][-1] + 1) // 2
    if not whole:
        words.agree(kernel_size=window)
    scaled = pack.has(f"{first[0]}gamma1")
    arch = {
        "layout": layout,
        "embed_dims": dims,
        "depths": depths,
        "num_heads": heads,
        "window_size": None if whole else window,
        "dilations": dilations(pack, name, layout, depths),
        "mlp_ratio": ratio,
        "layer_scale": words.get("layer_scale") or (1e-5 if scaled else 0.0),
    }

    def taps(backbone):
        stages = backbone.stages
        found = {"tokenizer": backbone.downsamples[0], "patch_embed": backbone.downsamples[0]}
        for i, stage in enumerate(stages):
            # a published level ends with the downsampling
            after = backbone.downsamples[i + 1] if i + 1 < len(stages) else stage[-1]
            found |= {f"l{i}": after, f"level{i}": after}
            found |= {f"l{i}_block{j}": block for j, block in enumerate(stage)}
            found |= {f"l{i}_attn{j}": block.attn for j, block in enumerate(stage)}
        return found

    case = backbone_case(NAT, pack, arch, taps, {"small_input": small_input(pack), "drop_path_rate": 0.0})
    if hasattr(case.model, "head"):
        case.taps["norm"] = case.model.head.norm
    return case


def dilations(pack: Pack, name: str, layout: str, depths: list[int]) -> list:
    """Of the blocks of each level: as said, else as the variant's name says."""
    words = pack.words
    given = words.get("dilations", words.get("dilation"))
    if given is not None:
        given = given if isinstance(given, list) else [given]
        given = [level if isinstance(level, list) else [level] for level in given]
        return given if len(given) == len(depths) else [[d for level in given for d in level]]
    if "dinat" not in name:
        return [[1]] * len(depths)
    sides = (
        [[13], [6], [3], [1]] if "384" in name and "11" not in name and layout == "nat" else DILATIONS[layout]
    )
    return [[1, *own] for own, _ in zip(sides, depths, strict=False)]


def small_input(pack: Pack) -> str:
    """The published module pads by zeros up to 0.15, and raises an error since; a word may say how."""
    word = pack.words.get("small_input", "error")
    if not re.search("pad|error|raise", word):
        raise ValueError(f"word 'small_input' must speak of padding or of an error, found {word!r}")
    return "pad" if "pad" in word else "error"


def layer(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    channels = shapes["proj.weight"][0]
    words.agree(dim=channels, rel_pos_bias="rpb" in shapes)
    (x,) = pack.inputs.values()
    rank, op = x.ndim - 2, words.get("op", "")
    if (named := re.search(r"(\d)d", op.lower())) and int(named[1]) != rank:
        raise ValueError(f"word 'op' is {op!r}, but the pack shows {rank} axes")
    words.agree(shape=list(x.shape[1:-1]))
    model = LAYERS[rank - 1](
        channels,
        words.get("num_heads", channels // HEAD_DIMS),
        words.get("kernel_size", 7),
        words.get("dilation"),
        words.get("stride"),
        words.get("is_causal", False),
        rel_pos_bias="rpb" in shapes,
        qkv_bias="qkv.bias" in shapes,
        small_input=small_input(pack),
    )
    return Case(model, pack.weights)
