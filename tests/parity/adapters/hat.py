"""HAT: networks, padding and tiles around them, its two kinds of blocks; the metrics of its results."""

import torch

from dense.restoration.hat import HAT, HybridBlock, OverlappingBlock, ResidualGroup
from dense.restoration.metrics import compare
from dense.restoration.tiling import restore

SOURCE = "XPixelGroup/"
CHOICES = ("choice_restore_",)


def outputs(pack, weights, inputs):
    if not weights:
        return metrics(pack, inputs)
    build, x = pack["build"], inputs["x"]
    run = (blocks if "dim" in build else network)(build, weights)
    with torch.no_grad():
        found = run(x)
    x.requires_grad_()
    for name in pack["outputs"]:
        if name.startswith("grad.x.of."):
            y = run(x)[name.removeprefix("grad.x.of.")]
            (found[name],) = torch.autograd.grad((y * pack["probe"](y.shape)).sum(), x)
    return found


def network(build, weights):
    arch = {
        "embed_dims": build["embed_dim"],
        "depths": build["depths"],
        "num_heads": build["num_heads"],
        "compress_ratio": build["compress_ratio"],
        "squeeze_factor": build["squeeze_factor"],
    }
    ratios = ("window_size", "overlap_ratio", "mlp_ratio", "conv_scale")
    flags = ("resi_connection", "img_range", "img_size", "ape", "patch_norm")
    model = HAT(
        arch,
        build["upscale"],
        build["in_chans"],
        reference_quirks=True,
        **{name: build[name] for name in (*ratios, *flags) if name in build},
    ).eval()
    model.load_state_dict(model.convert_official(weights))
    first = model.groups[0]
    tapped = {"conv_first": model.conv_first, "embed": model.patch_norm, "body": model.conv_after_body}
    tapped |= dict(zip(("hab0", "hab1_shifted"), first.blocks, strict=False)) | {"ocab0": first.overlap}
    tapped |= {f"rhag{i}": group for i, group in enumerate(model.groups)}
    found = {}
    for name, module in tapped.items():
        tokens = name not in ("conv_first", "body")
        module.register_forward_hook(
            lambda _, __, y, name=name, tokens=tokens: found.__setitem__(
                f"tap.{name}", y.flatten(1, 2) if tokens else y
            )
        )

    def run(x):
        padded = any(side % model.multiple for side in x.shape[2:]) or "tile_size" in build
        if not padded:
            return {"sr": model(x), **found}
        return {"sr": restore(model, x, build.get("tile_size"), build.get("tile_pad", 32))}

    return run


def blocks(build, weights):
    """The two blocks on one input: as those of a group their weights are converted."""
    channels, heads, window = build["dim"], build["num_heads"], build["window_size"]
    group = "layers.0.residual_group."
    names = {"hab": f"{group}blocks.0", "ocab": f"{group}overlap_attn"}
    split = {key: key.split(".", 1) for key in weights}
    state = HAT.convert_official({f"{names[kind]}.{key}": weights[k] for k, (kind, key) in split.items()})
    ratios = {key: build[key] for key in ("compress_ratio", "squeeze_factor", "conv_scale", "mlp_ratio")}
    group = ResidualGroup(
        [HybridBlock(channels, heads, window, build["shift_size"], **ratios)],
        OverlappingBlock(
            channels, heads, window, build["overlap_ratio"], mlp_ratio=build["mlp_ratio"], pad_keys=True
        ),
        torch.nn.Identity(),
    )
    group.load_state_dict({key.removeprefix("groups.0."): value for key, value in state.items()})
    group.eval()
    return lambda x: {"hab": group.blocks[0](x), "ocab": group.overlap(x)}


def metrics(pack, inputs):
    """[PSNR, SSIM] of each image, by cropped border and channels, as ``crop2_y`` says."""
    gt = inputs["gt"].permute(0, 2, 3, 1).numpy()
    sr = gt + 0.05 * inputs["noise"].permute(0, 2, 3, 1).numpy()
    found = {}
    for name in pack["outputs"]:
        border, channels = name.removeprefix("crop").split("_")
        values = [compare(*images, int(border), channels) for images in zip(sr, gt, strict=True)]
        found[name] = torch.tensor(values, dtype=torch.float64)
    return found
