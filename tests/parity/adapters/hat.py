"""HAT: networks, padding and tiles around them, its two kinds of blocks; the metrics of its results."""

from inspect import signature
from math import isqrt

import torch
from torch import Tensor, nn

from dense.restoration.metrics import compare
from dense.restoration.networks.hat import HAT, HybridBlock, OverlappingBlock
from dense.restoration.tiling import restore

from ..adapt import Case, Pack

PAD = "reflect bottom/right to a multiple of window_size"
GROUP = "layers.0.residual_group."
PLACES = {
    "hab": (f"{GROUP}blocks.0.", "groups.0.blocks.0."),
    "ocab": (f"{GROUP}overlap_attn.", "groups.0.overlap."),
}


def adapt(pack: Pack) -> Case:
    if not pack.weights:
        return Case(run=lambda inputs: metrics(inputs, pack.facts))
    return (network if pack.has("conv_first.") else blocks)(pack)


def shape_of_blocks(pack: Pack, hab: str | None, ocab: str | None) -> dict[str, int | float]:
    """What the weights of either block, under these prefixes, say in the words of a build.

    Ratios need not divide: several give the same widths, of which a build names one.
    """
    shapes, words = pack.shapes, pack.words
    found = {}
    if hab:
        rows, found["num_heads"] = shapes[f"{hab}attn.relative_position_bias_table"]
        channels = shapes[f"{hab}norm1.weight"][0]
        found["window_size"] = (isqrt(rows) + 1) // 2
        for name, layer in (("compress_ratio", "0"), ("squeeze_factor", "3.attention.1")):
            found[name] = words.get(name, channels // shapes[f"{hab}conv_block.cab.{layer}.weight"][0])
        found["mlp_ratio"] = words.get("mlp_ratio", shapes[f"{hab}mlp.fc1.weight"][0] / channels)
        found["qkv_bias"] = pack.has(f"{hab}attn.qkv.bias")
    if ocab:
        rows, found["num_heads"] = shapes[f"{ocab}relative_position_bias_table"]
        channels = shapes[f"{ocab}norm1.weight"][0]
        found["mlp_ratio"] = words.get("mlp_ratio", shapes[f"{ocab}mlp.fc1.weight"][0] / channels)
        found["qkv_bias"] = pack.has(f"{ocab}qkv.bias")
    return found


def without_bias(kind: type[nn.Module], qkv_bias: bool) -> dict[str, bool]:
    """The argument `qkv_bias` where it is not the default.

    Raises:
        ValueError: the network always has these biases.
    """
    if not qkv_bias and "qkv_bias" not in signature(kind).parameters:
        raise ValueError(f"word 'qkv_bias' is False, but {kind.__name__} always has these biases")
    return {} if qkv_bias else {"qkv_bias": False}


def network(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    depths = pack.depths("layers.{}.residual_group.blocks.")
    found = shape_of_blocks(pack, f"{GROUP}blocks.0.", f"{GROUP}overlap_attn.")
    heads = [
        shapes[f"layers.{i}.residual_group.overlap_attn.relative_position_bias_table"][1]
        for i in range(len(depths))
    ]
    channels, in_channels = shapes["conv_first.weight"][:2]
    window, key_window = found["window_size"], isqrt(shapes["relative_position_index_OCA"][1])
    first = shapes.get("upsample.0.weight", (64,))[0]
    scale = isqrt(first // 64) ** len(
        [key for key in shapes if key.startswith("upsample.") and key.endswith("weight")]
    )
    identity = not pack.has("layers.0.conv.")
    words.agree(
        depths=depths,
        embed_dim=channels,
        num_heads=heads,
        in_chans=in_channels,
        upscale=scale,
        patch_norm=pack.has("patch_embed.norm."),
        resi_connection="identity" if identity else "1conv",
        **{name: value for name, value in found.items() if name != "num_heads"},
    )
    words.only("upsampler", *(["pixelshuffle"] if scale > 1 else ["", None]))
    model = HAT(
        {
            "embed_dims": channels,
            "depths": depths,
            "num_heads": heads,
            "compress_ratio": found["compress_ratio"],
            "squeeze_factor": found["squeeze_factor"],
        },
        scale,
        in_channels,
        window_size=window,
        overlap_ratio=words.get("overlap_ratio", (key_window - window) / window),
        mlp_ratio=found["mlp_ratio"],
        patch_norm=pack.has("patch_embed.norm."),
        ape="absolute_pos_embed" in shapes,
        resi_connection="identity" if identity else "1conv",
        reference_quirks=True,
        **without_bias(HAT, found["qkv_bias"]),
        **words.given("conv_scale", "img_range", "img_size"),
    )
    taps = {"conv_first": model.conv_first, "embed": model.patch_norm, "body": model.conv_after_body}
    taps |= {f"rhag{i}": group for i, group in enumerate(model.groups)}
    taps |= {f"ocab{i}": group.overlap for i, group in enumerate(model.groups)}
    taps |= dict(zip(("hab0", "hab1_shifted"), model.groups[0].blocks, strict=False))
    words.only("pad", PAD)
    tile, overlap = words.get("tile_size"), words.get("tile_pad", 32)

    def run(inputs):
        x = inputs["x"]
        if tile is None and not any(side % model.multiple for side in x.shape[2:]):
            return model(x)
        return restore(model, x, tile, overlap)

    return Case(model, model.convert_official(pack.weights), taps, run)


def blocks(pack: Pack) -> Case:
    """Either block or both, on one input (B, H, W, C); their weights are converted as those of a group."""
    words, kinds = pack.words, [kind for kind in PLACES if pack.has(f"{kind}.")]
    found = shape_of_blocks(pack, *(f"{kind}." if kind in kinds else None for kind in PLACES))
    channels, window = (
        pack.shapes[f"{kinds[0]}.norm1.weight"][0],
        words.get("window_size", found.get("window_size")),
    )
    words.agree(dim=channels, **found)
    words.skip(
        "shift_size", "overlap_ratio", "conv_scale", "compress_ratio", "squeeze_factor"
    )  # of one block each
    shape, model = (channels, found["num_heads"], window), nn.ModuleDict()
    bias = without_bias(HybridBlock, found["qkv_bias"])
    if "hab" in kinds:
        ratios = {name: found[name] for name in ("compress_ratio", "squeeze_factor", "mlp_ratio")}
        options = {**ratios, **words.given("conv_scale"), **bias}
        model["hab"] = HybridBlock(*shape, words.get("shift_size", 0), **options)
    if "ocab" in kinds:
        options = {"mlp_ratio": found["mlp_ratio"], "pad_keys": True, **bias}
        model["ocab"] = OverlappingBlock(*shape, words.get("overlap_ratio", 0.5), **options)
    official = {
        PLACES[kind][0] + key: value for kind in kinds for key, value in pack.part(f"{kind}.").items()
    }
    # whose size tells the conversion what the window is
    official.setdefault(
        f"{PLACES['hab'][0]}attn.relative_position_bias_table", torch.zeros((2 * window - 1) ** 2, 1)
    )
    converted, state = HAT.convert_official(official), {}
    for kind in kinds:
        place = PLACES[kind][1]
        state |= {
            f"{kind}.{key.removeprefix(place)}": x for key, x in converted.items() if key.startswith(place)
        }
    return Case(model, state, run=lambda inputs: {kind: block(inputs["x"]) for kind, block in model.items()})


def metrics(inputs: dict[str, Tensor], names: dict) -> dict[str, Tensor]:
    """[PSNR, SSIM] of each image, by cropped border and channels, as ``crop2_y`` says."""
    gt = inputs["gt"].permute(0, 2, 3, 1).numpy()
    sr = gt + 0.05 * inputs["noise"].permute(0, 2, 3, 1).numpy()
    found = {}
    for name in names:
        border, channels = name.removeprefix("crop").split("_")
        values = [compare(*images, int(border), channels) for images in zip(sr, gt, strict=True)]
        found[name] = torch.tensor(values, dtype=torch.float64)
    return found
