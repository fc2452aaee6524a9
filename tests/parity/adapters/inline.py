"""InLine: classifiers of four families, and injective attention alone."""

import re

from dense.backbones import InLineCSWin, InLineDeiT, InLinePVT, InLineSwin
from dense.layers import InjectiveAttention
from dense.layers.attention import join_qkv
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

FEATURES = {"identity": "identity", "relu": "relu", "leakyrelu": "leaky_relu", "exp": "exp"}


def adapt(pack: Pack) -> Case:
    families = {"layers.": swin, "stage1.": cswin, "block1.": pvt, "blocks.": deit}
    pack.words.skip("model")
    return next((build for start, build in families.items() if pack.has(start)), operator)(pack)


def feature(pack: Pack) -> str:
    pack.words.only("kernel_func", *FEATURES)
    return FEATURES[pack.words.get("kernel_func", "identity")]


def options(pack: Pack, attention: str) -> dict:
    biased = any(pack.has(f"{attention}{name}.bias") for name in ("q", "qkv"))
    pack.words.agree(qkv_bias=biased)
    return {"qkv_bias": biased, "feature": feature(pack)}


def heads(pack: Pack, attention: str) -> int:
    """The kernels' layers have a group for each head."""
    rows, columns, _ = pack.shapes[f"{attention}residual.0.weight"]
    return rows // columns


def agree_heads(pack: Pack, found: list[int]) -> None:
    pack.words.agree(num_heads=found[0] if isinstance(pack.words.get("num_heads"), int) else found)


def operator(pack: Pack) -> Case:
    start = "attn."
    found = heads(pack, start)
    x = pack.inputs["x"]
    state = strip_prefix(join_qkv(pack.weights, ("q", "kv")), start)
    channels = len(state["proj.weight"])
    pack.words.agree(dim=channels, num_heads=found)
    model = InjectiveAttention(channels, found, **options(pack, start))
    text = pack.words["operator"]
    if x.ndim == 4:  # (B, C, H, W) to (B, H * W, C)
        return Case(model, state, run=lambda inputs: model(inputs["x"].permute(0, 2, 3, 1)).flatten(1, 2))
    prefix = int("class token" in text)
    named = re.search(r"(\d+)x(\d+)", text)
    side = int((x.shape[1] - prefix) ** 0.5)
    grid = (int(named[1]), int(named[2])) if named else (side, side)
    pack.words.agree(window_size=grid[0])
    return Case(model, state, run=lambda inputs: model(inputs["x"], grid))


def deit(pack: Pack) -> Case:
    dims, rows = pack.shapes["norm.weight"][0], pack.shapes["pos_embed"][1]
    patch = pack.shapes["patch_embed.proj.weight"][-1]
    depth, found = pack.count(r"blocks\.(\d+)\."), heads(pack, "blocks.0.attn.")
    size = patch * round((rows - 1) ** 0.5)
    pack.words.agree(embed_dim=dims, depths=[depth], img_size=size)
    agree_heads(pack, [found])
    arch = {"embed_dims": dims, "depth": depth, "num_heads": found, "patch_size": patch, "img_size": size}

    def taps(backbone):
        return {"embed": (backbone.blocks[0], lambda _, x, grid: x)} | {
            f"block{i}": block for i, block in enumerate(backbone.blocks)
        }

    return backbone_case(InLineDeiT, pack, arch, taps, options(pack, "blocks.0.attn."))


def pvt(pack: Pack) -> Case:
    words, stages = pack.words, range(1, 5)
    depths = pack.depths("block{}.", first=1)
    dims = [pack.shapes[f"patch_embed{i}.proj.weight"][0] for i in stages]
    found = [heads(pack, f"block{i}.0.attn.") for i in stages]
    hidden = [pack.shapes[f"block{i}.0.mlp.fc1.weight"] for i in stages]
    ratios = [rows / columns for rows, columns in hidden]
    size = 4 * round(pack.shapes["pos_embed1"][1] ** 0.5)
    words.agree(depths=depths, embed_dim=dims[0], img_size=size)
    agree_heads(pack, found)
    words.only("attn_type", "IIII")
    words.only("la_sr_ratios", "1111")
    arch = {
        "embed_dims": dims,
        "depths": depths,
        "num_heads": found,
        "mlp_ratios": ratios,
        "img_size": size,
    }

    def taps(backbone):
        return {"block1_attn": backbone.stages[0][0].attn} | {
            f"stage{i + 1}": stage[-1] for i, stage in enumerate(backbone.stages)
        }

    chosen = {**options(pack, "block1.0.attn."), "reference_quirks": True}
    return backbone_case(InLinePVT, pack, arch, taps, chosen)


def count_inline(pack: Pack, starts: list[str], depths: list[int], residual: str) -> list[int]:
    """Blocks of each stage with injective attention, of which the word "attn_type" says the same: "I" is a
    stage of these, "S" one of softmax, "M" one that begins with as many of these as the digit says.
    """
    found = [
        sum(pack.has(f"{start}{j}.{residual}") for j in range(depth))
        for start, depth in zip(starts, depths, strict=True)
    ]
    if (text := pack.words.get("attn_type")) is not None:
        letters, digit = re.fullmatch(r"([ISM]+)(\d*)", text).groups()
        named = [
            {"I": depth, "S": 0, "M": int(digit or 0)}[kind]
            for kind, depth in zip(letters, depths, strict=True)
        ]
        if named != found:
            raise ValueError(f"word 'attn_type' is {text!r}, but the pack shows {found} of {depths} blocks")
    return found


def swin(pack: Pack) -> Case:
    words, depths = pack.words, pack.depths("layers.{}.blocks.")
    starts = [f"layers.{i}.blocks." for i in range(len(depths))]
    inline = count_inline(pack, starts, depths, "attn.residual.")
    dims = [pack.shapes[f"{start}0.norm1.weight"][0] for start in starts]
    window = words.get("window_size", 56)
    small = [max(7, window // 8)] * len(depths)
    found = [0] * len(depths)
    for i, start in enumerate(starts):
        for j in range(depths[i]):
            attention = f"{start}{j}.attn."
            if pack.has(f"{attention}residual."):
                found[i] = heads(pack, attention)
            else:
                rows, found[i] = pack.shapes[f"{attention}relative_position_bias_table"]
                small[i] = (round(rows**0.5) + 1) // 2
    agree_heads(pack, found)
    words.agree(depths=depths, embed_dim=dims[0], img_size=pack.inputs["x"].shape[-1])
    arch = {
        "embed_dims": dims,
        "depths": depths,
        "num_heads": found,
        "num_inline": inline,
        "window_size": window,
        "softmax_windows": small,
    }

    def taps(backbone):
        found = {"embed": backbone.downsamples[0], "block0_attn": backbone.stages[0][0].attn}
        # a published stage ends with the merging
        ends = [*backbone.downsamples[1:], backbone.stages[-1][-1]]
        return found | {f"stage{i + 1}": module for i, module in enumerate(ends)}

    chosen = {**options(pack, "layers.0.blocks.0.attn."), "reference_quirks": True}
    return backbone_case(InLineSwin, pack, arch, taps, chosen)


def cswin(pack: Pack) -> Case:
    words, depths = pack.words, pack.depths("stage{}.", first=1)
    starts = [f"stage{i + 1}." for i in range(len(depths))]
    inline = count_inline(pack, starts, depths, "attns.0.residual.")
    dims = [pack.shapes[f"{start}0.norm1.weight"][0] for start in starts]
    size = pack.inputs["x"].shape[-1]
    found = [heads(pack, "stage1.0.attns.0.") << i for i in range(len(depths))]
    agree_heads(pack, found)
    words.agree(depths=depths, embed_dim=dims[0], img_size=size)
    if "la_split_size" in words:
        splits = [int(number) for number in words["la_split_size"].split("-")]
        whole = [size // (4 << i) for i in range(len(depths))]
        if any(count and split < side for split, side, count in zip(splits, whole, inline, strict=True)):
            raise ValueError(f"word 'la_split_size' is {splits}, but maps of {whole} are wanted whole")
    arch = {
        "embed_dims": dims,
        "depths": depths,
        "num_heads": found,
        "num_inline": inline,
        "stripes": [7 if pack.has(f"{start}0.attns.1.") else None for start in starts],
    }

    def taps(backbone):
        found = {"embed": backbone.downsamples[0]}
        for i, stage in enumerate(backbone.stages):
            found |= {f"stage{i + 1}": stage[-1], f"stage{i + 1}_0": stage[0]}
        return found

    return backbone_case(InLineCSWin, pack, arch, taps, options(pack, "stage1.0."))
