"""AFFNet: classifiers, dense backbones, units of blocks and filters."""

from dense.backbones import AFFNet
from dense.backbones.affnet import AdaptiveFrequencyFilter, GlobalUnit
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

ACTS = {"swish": "silu", "relu": "relu", "gelu": "gelu"}
NORMS = {"layer_norm_2d": "layer_norm_2d", "layer_norm": "layer_norm"}
NORMS |= {"batch_norm": "batch_norm", "sync_batch_norm": "batch_norm"}  # one at evaluation
MODES = {"xx_small": "et", "x_small": "t", "small": "small", "base": "base", "large": "large"}


def adapt(pack: Pack) -> Case:
    words = pack.words
    words.only("act", *ACTS)
    words.only("attn_norm", *NORMS)
    options = {"act": ACTS[words.get("act", "swish")], "threshold": words.get("sparsity", 0.01)}
    tables = [shape for key, shape in pack.shapes.items() if key == "w1" or key.endswith(".filter.w1")]
    options["num_blocks"] = tables[0][1] if tables else 8
    words.agree(num_blocks=options["num_blocks"])
    if pack.has("conv_1."):
        return network(pack, {**options, "attn_norm": NORMS[words.get("attn_norm", "layer_norm_2d")]})
    return (unit if pack.has("global_rep.") else spectral_filter)(pack, options)


def network(pack: Pack, options: dict) -> Case:
    words = pack.words
    words.only("mode", *MODES)
    spec = AFFNet.archs[MODES[words.get("mode", "small")]]
    arch = AFFNet.adapt_arch(spec, AFFNet.convert_official(pack.weights))

    def taps(backbone):
        found = {"stem": backbone.downsamples[0]}
        for i, (down, stage) in enumerate(zip(backbone.downsamples, backbone.stages, strict=True)):
            found[f"layer{i + 1}"] = stage[-1] if len(stage) else down
            if i > 1:
                for j, block in enumerate(stage[0].blocks):
                    found |= {f"filter{i + 1}_b{j}": block.filter, f"aff{i + 1}_b{j}": block}
        return found

    return backbone_case(AFFNet, pack, arch, taps, options)


def unit(pack: Pack, options: dict) -> Case:
    words = pack.words
    channels = pack.shapes["global_rep.0.norm1.weight"][0]
    expand = pack.shapes.get("global_rep.0.mlp.block.exp_1x1.block.conv.weight", (channels,))
    depth = pack.count(r"global_rep\.(\d+)\.filter")
    words.agree(in_channels=pack.shapes["conv_proj.block.conv.weight"][0], transformer_dim=channels)
    words.agree(ffn_dim=expand[0], n_blocks=depth)
    words.only("in_channels", channels)
    ratio, norm = expand[0] / channels, NORMS[words.get("attn_norm", "layer_norm_2d")]
    fuse = pack.has("fusion.")
    model = GlobalUnit(channels, [0.0] * depth, fuse, norm=norm, mlp_ratio=ratio, **options)
    state = AFFNet.convert_official({f"layer_3.1.{key}": value for key, value in pack.weights.items()})
    first = model.blocks[0]
    taps = {"mlp": first.mlp, "filter": first.filter, "conv_proj": model.proj}
    return Case(model, strip_prefix(state, "backbone.stages.2.0."), taps)


def spectral_filter(pack: Pack, options: dict) -> Case:
    _, blocks, width, _ = pack.shapes["w1"]
    pack.words.agree(dim=blocks * width)
    return Case(AdaptiveFrequencyFilter(blocks * width, **options), pack.weights)
