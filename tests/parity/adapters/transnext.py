"""TransNeXt: classifiers, dense backbones and single operators."""

import torch

from dense.backbones import ClassificationNetwork, TransNeXt
from dense.backbones.transnext import AggregatedAttention, ConvGLU, GlobalAttention

SOURCE = "DaiShiResearch/TransNeXt"
ATTENTIONS = ("AggregatedAttention", "Attention")


def outputs(pack, weights, inputs):
    op = pack["build"].get("op")
    run = operator if op in (*ATTENTIONS, "ConvolutionalGLU") else network
    return run(pack, weights, inputs["x"])


def network(pack, weights, x):
    build = pack["build"]
    variant = build.get("variant", "transnext_micro").lower().removeprefix("transnext_")
    arch = dict(TransNeXt.archs[variant if variant in TransNeXt.archs else variant.rpartition("_")[0]])
    arch |= {key: build[key] for key in arch if key in build}
    backbone = TransNeXt(
        arch,
        pretrain_size=build.get("pretrain_size"),
        position_bias="extrapolate" if build.get("is_extrapolation", True) else "interpolate",
        fixed_pool_size=build.get("fixed_pool_size"),
        window_sizes=[size or 3 for size in build.get("window_size", [3] * 4)],
        qkv_bias=build.get("qkv_bias", True),
    )
    state = TransNeXt.convert_official(weights)
    if "head.weight" in weights:
        model = ClassificationNetwork(backbone, len(weights["head.weight"]))
    else:
        model = backbone
        state = {key.removeprefix("backbone."): value for key, value in state.items()}
    model.load_state_dict(state)
    model.eval().requires_grad_(False)

    found = {}
    hook(found, "tap.embed1", backbone.downsamples[0])
    for i, stage in enumerate(backbone.stages):
        hook(found, f"tap.s{i + 1}_attn0", stage[0].attn, channels_last=True)
        hook(found, f"tap.s{i + 1}_block1", stage[min(1, len(stage) - 2)])
        hook(found, f"tap.norm{i + 1}", stage.norm)
    names = [name for name in pack["outputs"] if not name.startswith(("tap.", "grad."))]

    def run(x):
        y = model(x)
        return dict(zip(names, y if isinstance(y, tuple) else (y,), strict=True))

    return found | results(pack, run, x)


def operator(pack, weights, x):
    build = pack["build"]
    if build["op"] == "ConvolutionalGLU":
        part, size = "mlp", build["size"]
        model = ConvGLU(build["in_features"], build["hidden_features"])
    else:
        part, size = "attn", build["input_resolution"]
        reference = build["pretrain_size"] or size
        common = (build["dim"], build["num_heads"], reference, None, build["qkv_bias"])
        if build["op"] == "Attention":
            model = GlobalAttention(*common)
        else:
            pool, window = build.get("fixed_pool_size"), build["window_size"]
            pool = (pool, pool) if isinstance(pool, int) else pool
            model = AggregatedAttention(
                *common, sr_ratio=build["sr_ratio"], window_size=window, pool_size=pool
            )
    state = TransNeXt.convert_official({f"block1.0.{key}": value for key, value in weights.items()})
    prefix = f"backbone.stages.0.0.{part}."
    model.load_state_dict({key.removeprefix(prefix): value for key, value in state.items()})
    model.eval().requires_grad_(False)
    return results(pack, lambda x: {"y": model(x.unflatten(1, size)).flatten(1, 2)}, x)


def hook(found, name, module, channels_last=False):
    """Keep the first output of a module as the published code has it: (B, N, C)."""

    def keep(module, args, y):
        found.setdefault(name, (y if channels_last else y.permute(0, 2, 3, 1)).flatten(1, 2))

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
