"""DaViT: the classifier, the backbone of the dense copies, single blocks and attentions."""

import torch

from dense.backbones import DaViT
from dense.backbones.base import ClassificationNetwork
from dense.backbones.davit import Block, ChannelAttention, WindowAttention

SOURCE = "dingmyu/davit"
FLAGS = ("qkv_bias", "ffn", "cpe_act", "overlapped_patch")


def outputs(pack, weights, inputs):
    build = pack["build"]
    x = inputs["x"].requires_grad_()
    if "variant" in build:
        found = classifier(build, weights, x)
    elif "embed_dims" in build:
        found = backbone(build, weights, x)
    else:
        found = operator(build, weights, x)
    for name in pack["outputs"]:
        if name.startswith("grad.x.of."):
            y = found[name.removeprefix("grad.x.of.")]
            (found[name],) = torch.autograd.grad((y * pack["probe"](y.shape)).sum(), x, retain_graph=True)
    return found


def flags(build):
    return {"reference_quirks": True, **{key: build[key] for key in FLAGS if key in build}}


def classifier(build, weights, x):
    name = build["variant"].lower()
    arch = next(arch for arch in DaViT.archs if arch in name)
    inner = DaViT(arch, out_indices=(3,), output_norm=False, **flags(build))
    network = ClassificationNetwork(inner, build["num_classes"]).eval()
    network.load_state_dict(network.convert_official(weights))
    taps = {}
    tapped = {
        "embed0": inner.downsamples[0],
        "s0_spatial": inner.stages[0][0][0],
        "s0_channel": inner.stages[0][0][1],
        "embed1": inner.downsamples[1],
        "s1": inner.stages[1][-1],
        "s2_last": inner.stages[2][-1],
        "s3": inner.stages[3][-1],
    }
    for name, module in tapped.items():
        module.register_forward_hook(lambda _, __, y, name=name: taps.__setitem__(f"tap.{name}", tokens(y)))
    return {"logits": network(x), **taps}


def backbone(build, weights, x):
    arch = {key: build.get(key, value) for key, value in DaViT.archs["tiny"].items()}
    network = DaViT(arch, **flags(build)).eval()
    state = network.convert_official(weights)
    network.load_state_dict({key.removeprefix("backbone."): value for key, value in state.items()})
    return {f"f{i}": y for i, y in enumerate(network(x))}


def operator(build, weights, x):
    """Published operators take tokens (B, N, C); alone, window attention takes (windows, w * w, C)."""
    channels, heads, bias = build["dim"], build["num_heads"], build.get("qkv_bias", True)
    if build["op"].startswith("Channel"):
        attention = ChannelAttention(channels, heads, bias)
    else:
        attention = WindowAttention(channels, heads, build["window_size"], bias, mask_padding=False)
    if build["op"].endswith("Attention"):
        attention.load_state_dict(weights)
        size = build.get("window_size", 1) if x.ndim == 3 else None
        maps = x.unflatten(1, (size, -1)) if size else x
        return {"y": attention(maps).reshape(x.shape)}
    ffn, cpe_act = build.get("ffn", True), build.get("cpe_act", False)
    block = Block(channels, attention, 0.0, ffn, cpe_act).eval()
    block.load_state_dict(weights)
    found = {}
    if ffn:
        block.mlp.register_forward_hook(lambda _, __, y: found.__setitem__("tap.mlp", y.flatten(1, 2)))
    attention.proj.register_forward_hook(lambda _, __, y: found.__setitem__("tap.attn_windows", y))
    maps = x.transpose(1, 2).unflatten(2, tuple(build["size"]))
    return {"y": tokens(block(maps)), **found}


def tokens(maps):
    return maps.flatten(2).transpose(1, 2)
