"""AttNet: classifiers, single attentive convolutions and gated MLPs."""

from math import isqrt

from dense.backbones import AttNet
from dense.backbones.attnet import ATConv, TokenATConv
from dense.layers import ConvGLU
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

ACTS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "tanh": "gelu_tanh", "relu": "relu", "silu": "silu"}


def adapt(pack: Pack) -> Case:
    if pack.has("stages."):
        return network(pack)
    return glu(pack) if pack.has("fc1.") else convolution(pack)


def network(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    words.skip("variant")
    depths = pack.depths("stages.{}.")
    first = [f"stages.{i}.0." for i in range(len(depths))]
    dims = [shapes[f"{start}norm_1.weight"][0] for start in first]
    widths = [shapes[f"{start}channel_mixer.fc2.weight"][1] for start in first]
    sizes = [isqrt(shapes[f"{start}token_mixer.kernel_gen.bias"][0]) for start in first]
    normed = pack.has(f"{first[0]}channel_mixer.norm_layer.")
    words.agree(kernel_size=sizes[0], glu_norm=normed, dim=dims[0])
    words.only("glu_dconv", True)
    words.only("act", "gelu")
    arch = {
        "embed_dims": dims,
        "depths": depths,
        "mlp_ratios": [_ratio(dim, width) for dim, width in zip(dims, widths, strict=True)],
        "kernel_sizes": sizes,
        "layer_scale": pack.has(f"{first[0]}layer_scale_1."),
        "glu_norm": normed,
    }

    def taps(backbone):
        found = {"stem": backbone.downsamples[0]}
        for i, blocks in enumerate(backbone.stages, 1):
            found[f"stage{i}"] = blocks[-1]
            found |= {f"atconv_s{i}b{j}": block.mixer for j, block in enumerate(blocks)}
            found |= {f"glu_s{i}b{j}": block.mlp for j, block in enumerate(blocks)}
        return found

    return backbone_case(AttNet, pack, arch, taps)


def _ratio(dim: int, width: int) -> float:
    """Of an MLP, of which the gate has two thirds of the width: a whole number where one fits."""
    hidden = -(-3 * width // 2)
    return next((r for r in range(1, 17) if int(2 * (dim * r) / 3) == width), (hidden + 0.5) / dim)


def convolution(pack: Pack) -> Case:
    """Of maps (B, C, H, W), or of the tokens (B, N, C) of a square one."""
    words = pack.words
    words.skip("variant")
    (x,) = pack.inputs.values()
    channels = pack.shapes["difference_control"][0]
    size = isqrt(pack.shapes["kernel_gen.bias"][0])
    words.agree(dim=channels, kernel_size=size)
    words.only("act", *ACTS)
    weights = {f"stages.0.0.token_mixer.{key}": value for key, value in pack.weights.items()}
    state = strip_prefix(AttNet.convert_official(weights), "backbone.stages.0.0.mixer.")
    act = ACTS[words.get("act", "gelu")]
    if x.ndim == 3:
        side = isqrt(x.shape[1])
        # that of tokens has the approximation, whatever it is called
        model = TokenATConv(channels, size, "gelu_tanh" if act == "gelu" else act, (side, side))
    else:
        model = ATConv(channels, size, act)

    def run(inputs):
        x = inputs["x"]
        if x.ndim == 3:
            return {"y": model(x), "kernels": model.make_kernels(x.unflatten(1, model.size))}
        x = x.permute(0, 2, 3, 1)
        return {"y": model(x).permute(0, 3, 1, 2), "kernels": model.make_kernels(x)}

    taps = {"kernel_gen": model.kernel_gen, "x_proj": model.x_proj}
    return Case(model, state, taps, run=run)


def glu(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    words.skip("variant")
    channels, width = shapes["fc2.weight"][:2]
    conv, normed = pack.has("dwconv."), pack.has("norm_layer.")
    words.agree(dim=channels, hidden=width, glu_dconv=conv, glu_norm=normed)
    words.only("act", "gelu")
    weights = {f"stages.0.0.channel_mixer.{key}": value for key, value in pack.weights.items()}
    state = strip_prefix(AttNet.convert_official(weights), "backbone.stages.0.0.mlp.")
    model = ConvGLU(channels, -(-3 * width // 2), conv=conv, norm=normed)
    return Case(model, state, run=lambda x: model(x["x"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
