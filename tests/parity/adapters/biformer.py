"""BiFormer: classifiers, dense backbones and single attentions of both published implementations."""

import torch

from dense.backbones import BiFormer, ClassificationNetwork
from dense.backbones.biformer import FullAttention, RoutingAttention, _cut, routed_attention

SOURCE = "rayleizhu/BiFormer"


def outputs(pack, weights, inputs):
    build = pack["build"]
    x = inputs["x"].requires_grad_()
    if any(key.startswith("downsample_layers.") for key in weights):
        found = network(pack, weights, x)
    elif "topk" in build:
        found = routing_attention(build, weights, x)
    else:
        found = full_attention(build, weights, x)
    for name in pack["outputs"]:
        if name.startswith("grad.x.of."):
            y = found[name.removeprefix("grad.x.of.")]
            (found[name],) = torch.autograd.grad((y * pack["probe"](y.shape)).sum(), x, retain_graph=True)
    return found


def network(pack, weights, x):
    build = pack["build"]
    arch = dict(BiFormer.archs[build["variant"].removeprefix("biformer_")])
    arch["depths"] = build.get("depth", arch["depths"])
    topks = [None if k < 0 else k for k in build.get("topks", (1, 4, 16, -1))]
    flags = {"num_windows": build.get("n_win", 7), "topks": topks, "reference_quirks": True}
    state = BiFormer.convert_official(weights)
    if "head.weight" in weights:
        backbone = BiFormer(arch, out_indices=(3,), output_norm=False, **flags)
        model = ClassificationNetwork(backbone, len(weights["head.weight"]))
    else:
        model = backbone = BiFormer(arch, **flags)
        state = {key.removeprefix("backbone."): value for key, value in state.items()}
    model.load_state_dict(state)
    model.eval().requires_grad_(False)

    taps = {}
    tapped = {"stem": backbone.downsamples[0], "bra_s1b0": backbone.stages[0][0].attn}
    tapped |= {f"stage{i + 1}": stage[-1] for i, stage in enumerate(backbone.stages)}
    for name, module in tapped.items():
        module.register_forward_hook(lambda _, __, y, name=name: taps.__setitem__(f"tap.{name}", y))
    with torch.inference_mode():
        evaluated = model(x)
    y = model(x) if any(name.startswith("grad.") for name in pack["outputs"]) else evaluated
    names = [name for name in pack["outputs"] if not name.startswith(("tap.", "grad."))]
    return dict(zip(names, y if isinstance(y, tuple) else (y,), strict=True)) | taps


def load(attention, weights):
    prefix = "stages.0.0.attn."
    state = BiFormer.convert_official({prefix + key: value for key, value in weights.items()})
    attention.load_state_dict({key.removeprefix("backbone." + prefix): v for key, v in state.items()})
    return attention.eval().requires_grad_(False)


def channels_last(build, x):
    return x.permute(0, 2, 3, 1) if build["layout"] == "NCHW" else x


def as_given(build, y):
    return y.permute(0, 3, 1, 2) if build["layout"] == "NCHW" else y


def full_attention(build, weights, x):
    lepe_of = "values" if build["layout"] == "NCHW" else "input"
    attention = FullAttention(
        build["dim"], build["num_heads"], lepe_size=build["side_dwconv"], lepe_of=lepe_of
    )
    return {"y": as_given(build, load(attention, weights)(channels_last(build, x)))}


def routing_attention(build, weights, x):
    nchw = build["layout"] == "NCHW"
    attention = RoutingAttention(
        build["dim"],
        build["num_heads"],
        build["n_win"],
        build["topk"],
        lepe_size=build["side_dwconv"],
        floor_windows=nchw,
        padding="keys" if nchw else "input",
    )
    load(attention, weights)
    x = channels_last(build, x)
    qkv = attention.qkv(x)
    size = attention.window_size(*x.shape[1:3])
    r_weight, routes = attention.route(qkv, size)
    found = {"y": as_given(build, attention(x)), "r_weight": r_weight, "r_idx": routes.float()}
    if not (x.shape[1] % size[0] or x.shape[2] % size[1]):
        found["attn"] = attention_weights(attention, _cut(qkv, size), routes)
    return found


def attention_weights(attention, qkv, routes):
    """What each pixel gives to those of its windows: with unit vectors for values, the operator tells."""
    batch, windows, pixels, _ = qkv.shape
    heads, width = attention.num_heads, attention.qk_dims
    units = torch.eye(windows * pixels).unflatten(0, (windows, pixels)).repeat(batch, 1, 1, heads)
    kv = torch.cat((qkv[..., width : 2 * width], units), -1)
    y = routed_attention(qkv[..., :width], kv, routes, heads, attention.scale)
    y = y.unflatten(-1, (heads, windows, pixels)).permute(0, 1, 3, 2, 4, 5).flatten(0, 1)
    index = routes.flatten(0, 1)[:, None, None, :, None].expand(*y.shape[:3], -1, pixels)
    return y.gather(3, index).flatten(3)  # (B * windows, heads, pixels, k * pixels)
