"""SHViT: networks, dense backbones and single operators."""

import torch

from dense.backbones import ClassificationNetwork, SHViT
from dense.backbones.shvit import PatchMerging, SingleHeadAttention
from dense.layers import ConvNorm

SOURCE = "ysj9909/SHViT"


def outputs(pack, weights, inputs):
    if any(key.startswith("patch_embed.") for key in weights):
        return network(pack, weights, inputs["x"])
    return operator(pack, weights, inputs["x"])


def load(model, state):
    """Load all but step counters, which packs do not have."""
    steps = {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    model.load_state_dict({**steps, **state})
    model.eval().requires_grad_(False)


def network(pack, weights, x):
    build = pack["build"]
    arch = build["variant"].split()[0].removeprefix("shvit_")
    state = SHViT.convert_official(weights)
    if "head.l.weight" in weights:
        backbone = SHViT(arch, out_indices=(2,), distillation="head_dist.l.weight" in weights)
        model = ClassificationNetwork(backbone, len(weights["head.l.weight"]))
        load(model, state)
    else:
        model = backbone = SHViT(arch)
        load(model, {key.removeprefix("backbone."): value for key, value in state.items()})

    found = {}
    hook(found, "tap.stem", backbone.downsamples[0])
    hook(found, "tap.merge1", backbone.downsamples[1][1])
    hook(found, "tap.shsa", backbone.stages[1][0].mixer)
    for i, stage in enumerate(backbone.stages):
        hook(found, f"tap.stage{i + 1}", stage[-1])
    names = [name for name in pack["outputs"] if not name.startswith(("tap.", "grad."))]

    def run(x):
        y = model(x)
        return dict(zip(names, y if isinstance(y, tuple) else (y,), strict=True))

    return found | results(pack, model, run, x)


def operator(pack, weights, x):
    build = pack["build"]
    merging = "out_dim" in build
    place = "blocks2.1." if merging else "blocks2.3.mixer.m."
    state = SHViT.convert_official({place + key: value for key, value in weights.items()})
    inner = "backbone.downsamples.1.1." if merging else "backbone.stages.1.0.mixer."
    found = {}
    if merging:
        model = PatchMerging(build["dim"], build["out_dim"])
        hook(found, "tap.conv2", model.conv2)
        hook(found, "tap.se", model.se)
    else:
        model = SingleHeadAttention(build["dim"], build["pdim"], build["qk_dim"])
        hook(found, "tap.pre_norm", model.pre_norm)
        hook(found, "tap.qkv", model.qkv)
    load(model, {key.removeprefix(inner): value for key, value in state.items()})
    return found | results(pack, model, lambda x: {"y": model(x)}, x)


def hook(found, name, module):
    """Keep the first output of a module; of a ConvNorm, that before the activation."""

    def keep(module, args, y):
        if isinstance(module, ConvNorm):
            y = module.forward(args[0])
        found.setdefault(name, y)

    module.register_forward_hook(keep)


def results(pack, model, run, x):
    """Outputs as inference computes them, and the gradients that the pack has.

    These in float64: in `shvit_s1` the input of a ReLU is -1.4e-6 where the others are about 2. Rounding in
    float32 may turn its sign, which changes the gradient by 6e-3 of its rms; the published code agrees with
    float64.
    """
    with torch.inference_mode():
        found = run(x)
    model.double()
    x = x.double().requires_grad_()
    for name in pack["outputs"]:
        if name.startswith("grad.x.of."):
            y = run(x)[name.removeprefix("grad.x.of.")]
            found[name] = torch.autograd.grad((y * pack["probe"](y.shape)).sum(), x)[0]
    return found
