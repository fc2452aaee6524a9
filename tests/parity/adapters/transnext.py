"""TransNeXt: classifiers, dense backbones and single operators."""

from math import isqrt

from dense.backbones import TransNeXt
from dense.backbones.transnext import AggregatedAttention, ConvGLU, GlobalAttention
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

PREFIX = "block1.0."


def adapt(pack: Pack) -> Case:
    return (network if pack.has("patch_embed1.") else operator)(pack)


def network(pack: Pack) -> Case:
    words, name = pack.words, pack.words.get("variant", "micro").lower()
    words.skip("op")
    depths = pack.depths("block{}.", first=1)
    firsts = [f"block{i + 1}.0.attn." for i in range(len(depths))]
    dims = [pack.shapes[f"{first}proj.weight"][0] for first in firsts]
    heads = [pack.shapes[f"{first}temperature"][0] for first in firsts]
    windows = [window_size(pack, first) for first in firsts]
    bias = any(pack.has(f"{firsts[0]}{part}.bias") for part in ("q", "qkv"))
    words.agree(depths=depths, embed_dims=dims, num_heads=heads, qkv_bias=bias)
    words.only("window_size", 3, windows, [window or 3 for window in windows], max(windows, key=bool))
    variant = TransNeXt.archs[
        max((arch for arch in TransNeXt.archs if arch in name), key=len, default="micro")
    ]
    arch = {**variant, "embed_dims": dims, "depths": depths, "num_heads": heads}
    arch |= words.given("mlp_ratios", "sr_ratios", "img_size")

    def taps(backbone):
        found = {f"embed{i + 1}": module for i, module in enumerate(backbone.downsamples)}
        for i, stage in enumerate(backbone.stages):
            *blocks, norm = stage
            found |= {f"s{i + 1}_attn0": blocks[0].attn, f"norm{i + 1}": norm}
            found |= {f"s{i + 1}_block{j}": block for j, block in enumerate(blocks)}
        return found

    options = {
        "pretrain_size": words.get("pretrain_size"),
        "position_bias": "extrapolate" if words.get("is_extrapolation", True) else "interpolate",
        "fixed_pool_size": words.get("fixed_pool_size"),
        "window_sizes": [window or 3 for window in windows],
        "qkv_bias": bias,
    }
    return backbone_case(TransNeXt, pack, arch, taps, options)


def window_size(pack: Pack, prefix: str) -> int | None:
    """Of aggregated attention; None of global one."""
    places = pack.shapes.get(f"{prefix}relative_pos_bias_local")
    return places and isqrt(places[1])


def operator(pack: Pack) -> Case:
    words, part = pack.words, "mlp." if pack.has("mlp.") else "attn."
    words.only("op", *{"mlp.": ["ConvolutionalGLU"], "attn.": ["AggregatedAttention", "Attention"]}[part])
    if part == "mlp.":
        channels = pack.shapes["mlp.fc1.weight"][1]
        words.agree(in_features=channels)
        size, model = words["size"], ConvGLU(channels, words.get("hidden_features", 4 * channels))
    else:
        size, model = words["input_resolution"], attention(pack)
    state = TransNeXt.convert_official({PREFIX + key: value for key, value in pack.weights.items()})

    def run(inputs):
        return model(inputs["x"].unflatten(1, tuple(size))).flatten(1, 2)

    return Case(model, strip_prefix(state, f"backbone.stages.0.0.{part}"), run=run)


def attention(pack: Pack) -> GlobalAttention | AggregatedAttention:
    words, channels = pack.words, pack.shapes["attn.proj.weight"][0]
    heads, window = pack.shapes["attn.temperature"][0], window_size(pack, "attn.")
    bias = pack.has("attn.q.bias") or pack.has("attn.qkv.bias")
    words.agree(dim=channels, num_heads=heads, qkv_bias=bias)
    reference = pair(words.get("pretrain_size") or words["input_resolution"])
    common = (channels, heads, reference, None, bias)
    if window is None:
        words.only("sr_ratio", 1)
        words.skip("window_size", "fixed_pool_size")
        return GlobalAttention(*common)
    words.agree(window_size=window)
    pool = words.get("fixed_pool_size")
    options = {"window_size": window, "pool_size": pool and pair(pool)}
    return AggregatedAttention(*common, sr_ratio=words.get("sr_ratio", 8), **options)


def pair(size: int | list[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
