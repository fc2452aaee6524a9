"""TiC: the published module, and its two products alone."""

from dense.backbones.tic import MSAConv
from dense.ops import local_logits, local_sum

from ..adapt import Case, Pack

GEOMETRY = {"stride": 1, "padding": 1, "dilation": 1}  # of the module, by default


def adapt(pack: Pack) -> Case:
    return (module if pack.weights else operator)(pack)


def module(pack: Pack) -> Case:
    words, (outer, channels, *kernel) = pack.words, pack.shapes["mlp.weight"]
    words.skip("module")
    size = words.get("kernel_size", list(kernel))
    if list(kernel) != ([size, size] if isinstance(size, int) else list(size)):
        raise ValueError(f"word 'kernel_size' is {size}, but the pack shows {kernel}")
    biased = pack.has("mlp.bias")
    words.agree(input_channel=channels, output_channel=outer, bias=biased)
    geometry = {name: words.get(name, default) for name, default in GEOMETRY.items()}
    model = MSAConv(channels, outer, tuple(kernel), bias=biased, **geometry)
    names = {"qkv_conv": "qkv", "mlp": "conv"}
    state = {}
    for key, value in pack.weights.items():
        layer, kind = key.split(".")
        state[f"{names[layer]}.{kind}"] = value.view_as(model.get_parameter(f"{names[layer]}.{kind}"))

    # the published ReLU works in place
    return Case(model, state, {"qkv": model.qkv, "mlp": (model.conv, lambda y, *_: y.relu())})


def operator(pack: Pack) -> Case:
    """Maps (B, C, H, W), and weights or logits (B, K * L, H, W), by the names of the inputs."""
    words, inputs = pack.words, pack.inputs
    words.skip("operator")
    how = {"window_size": tuple(words.get("kernel", (3, 3))), "dilation": words.get("dilation", 1)}
    names = ("q", "k") if "q" in inputs else ("a", "v")
    product = local_logits if "q" in inputs else local_sum
    last, first = (0, 2, 3, 1), (0, 3, 1, 2)

    def run(given):
        return product(*(given[name].permute(last).contiguous() for name in names), **how).permute(first)

    return Case(run=run)
