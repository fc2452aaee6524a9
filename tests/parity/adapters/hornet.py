"""HorNet: networks, dense backbones and single operators."""

import torch

from dense.backbones import ClassificationNetwork, HorNet
from dense.backbones.hornet import GlobalLocalFilter, GnConv

SOURCE = "raoyongming/HorNet"


def outputs(pack, weights, inputs):
    if any(key.startswith("downsample_layers.") for key in weights):
        return network(pack, weights, inputs["x"])
    return operator(pack, weights, inputs["x"])


def network(pack, weights, x):
    build = pack["build"]
    arch = dict(HorNet.archs[build["variant"].split()[0].removeprefix("hornet_")])
    arch["depths"] = build.get("depths", arch["depths"])
    arch["orders"] = build.get("orders", arch["orders"])
    if "base_dim" in build:
        arch["embed_dims"] = [build["base_dim"] * 2**i for i in range(4)]
    if "filter_hw" in build:
        arch["filter_sizes"] = (None, None, *build["filter_hw"])
    state = HorNet.convert_official(weights)
    scale = build.get("scale", 1 / 3)
    if "head.weight" in weights:
        model = ClassificationNetwork(
            HorNet(arch, out_indices=(3,), output_norm=False, gate_scale=scale), len(weights["head.weight"])
        )
        backbone = model.backbone
    else:
        model = backbone = HorNet(arch, gate_scale=scale)
        state = {key.removeprefix("backbone."): value for key, value in state.items()}
    model.load_state_dict(state)
    model.eval().requires_grad_(False)

    found = {}
    hook(found, "tap.stem", backbone.downsamples[0])
    hook(found, "tap.gnconv_s1b0", backbone.stages[0][0].gnconv, channels_last=True)
    hook(found, "tap.gfilter_s3b0", backbone.stages[2][0].gnconv.filter, 1 / scale, channels_last=True)
    for i, stage in enumerate(backbone.stages):
        hook(found, f"tap.stage{i + 1}", stage[-1])
    names = [name for name in pack["outputs"] if not name.startswith(("tap.", "grad."))]

    def run(x):
        y = model(x)
        return dict(zip(names, y if isinstance(y, tuple) else (y,), strict=True))

    return found | results(pack, run, x)


def operator(pack, weights, x):
    build = pack["build"]
    alone = "complex_weight" in weights  # keys of the filter only
    prefix = "dwconv." if alone else ""
    state = HorNet.convert_official({f"stages.0.0.gnconv.{prefix}{k}": v for k, v in weights.items()})
    spectral = state.get("backbone.stages.0.0.gnconv.filter.global_filter")
    size = None if spectral is None else spectral.shape[:2]
    if alone:
        model = GlobalLocalFilter(build["dim"], size)
    else:
        model = GnConv(build["dim"], build["order"], build["scale"], size)
    inner = "backbone.stages.0.0.gnconv." + ("filter." if alone else "")
    model.load_state_dict({key.removeprefix(inner): value for key, value in state.items()})
    model.eval().requires_grad_(False)

    found = {}
    if alone:
        hook(found, "tap.pre_norm", model.pre_norm, channels_last=True)
        hook(found, "tap.dw", model.local_filter, channels_last=True)
    else:
        hook(found, "tap.dwconv", model.filter, 1 / build["scale"], channels_last=True)
    return found | results(pack, lambda x: {"y": model(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)}, x)


def hook(found, name, module, factor=1.0, channels_last=False):
    """Keep the first output of a module, times ``factor``, as the published code has it."""

    def keep(module, args, y):
        found.setdefault(name, factor * (y.permute(0, 3, 1, 2) if channels_last else y))

    module.register_forward_hook(keep)


def results(pack, run, x):
    """Outputs as inference computes them, and the gradients that the pack has."""
    with torch.inference_mode():
        found = run(x)
    x = x.clone().requires_grad_()
    for name in pack["outputs"]:
        if name.startswith("grad.x.of."):
            y = run(x)[name.removeprefix("grad.x.of.")]
            found[name] = torch.autograd.grad((y * pack["probe"](y.shape)).sum(), x)[0]
    return found
