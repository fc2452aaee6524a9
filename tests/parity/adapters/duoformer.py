"""DuoFormer: the whole network, and its transformer alone."""

import re
from math import isqrt

from torch import nn

from dense.backbones import DuoFormer
from dense.backbones.duoformer import DuoHead, MultiscaleFormer, RegionHead, convert_transformer

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    return (network if pack.has("resnet_projector.") else transformer)(pack)


def read(pack: Pack, start: str) -> dict:
    """What the transformer's keys show."""
    words, shapes = pack.words, pack.shapes
    legacy = pack.has(f"{start}blocks.0.attn.qkv1.")
    blocks = f"{start}{'blocks' if legacy else 'scaleBlocks'}."
    _, _, tokens, dims = shapes[f"{start}pos_embed_for_scale"]
    depth = pack.count(blocks.replace(".", r"\.") + r"(\d+)\.")
    words.agree(depth=depth, embed_dim=dims, proj_dim=dims)
    normed = f"{start}blocks.0.attn.q_norm.weight"
    found = dims // shapes[normed][0] if normed in shapes else None
    heads = words.get("num_heads", found or 12)
    if found not in (None, heads):
        raise ValueError(f"word 'num_heads' is {heads}, but the pack shows {found}")
    patched = pack.has(f"{start}cls_token")
    words.agree(patch_attn=patched)
    words.skip("init_values", "attn_drop_rate")  # the keys show what they do at evaluation
    scaled = pack.has(f"{blocks}0.ls1.")
    return {
        "tokens": tokens,
        "dims": dims,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": shapes[f"{blocks}0.mlp.fc1.weight"][0] / dims,
        "patched": patched,
        "normed": normed in shapes and not legacy,
        "layer_scale": 1e-5 if scaled else None,
        "legacy": legacy,
    }


def read_trunk(pack: Pack) -> tuple[dict, str]:
    """The ResNet, and its number of layers."""
    layer, first = ("layer{}.", 1) if pack.has("resnet_projector.layer1.") else ("{}.", 4)
    layer = f"resnet_projector.{layer}"
    depths = tuple(pack.depths(layer, first=first))
    count = 3 if pack.has(f"{layer.format(first)}0.conv3.") else 2
    dims = [pack.shapes[f"{layer.format(first + i)}0.bn{count}.weight"][0] for i in range(len(depths))]
    arch = {"embed_dims": dims, "depths": depths, "expansion": 4 if count == 3 else 1}
    return arch, str(count * sum(depths) + 2)


def network(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    words.skip("pretrained", "freeze", "freeze_backbone")
    start = "vision_transformer."
    seen = read(pack, start)
    trunk, shown = read_trunk(pack)
    named = re.search(r"\d+", words.get("backbone", ""))
    if named and named[0] != shown:
        raise ValueError(f"word 'backbone' is {words['backbone']!r}, but the pack shows a ResNet-{shown}")
    scales = pack.count(r"projection\.proj_heads(\d)\.") - min(
        int(key.split(".")[1][-1]) for key in shapes if key.startswith("projection.")
    )
    words.agree(num_layers=scales, scales=scales)
    shown = "random" if pack.has("channel_token") else "channel" if pack.has("chann_proj1.") else None
    token = words.get("scale_token", shown or "first")
    if shown not in (None, token) or (shown is None and token in ("random", "channel")):
        raise ValueError(f"word 'scale_token' is {token!r}, but the pack shows {shown or 'none'}")
    if "model_ver" in words and (words["model_ver"] == "scaleformer") != seen["legacy"]:
        raise ValueError(f"word 'model_ver' is {words['model_ver']!r}, but the pack's keys say otherwise")
    table = shapes.get(f"{start}pos_embed")
    regions = table[1] - 1 if table else shapes[f"{start}fc.weight"][1]
    words.agree(patch_size=32)
    arch = {
        "backbone": trunk,
        "num_scales": scales,
        "scale_token": token,
        "embed_dims": seen["dims"],
        "depth": seen["depth"],
        "num_heads": seen["heads"],
        "mlp_ratio": seen["mlp_ratio"],
        "img_size": 32 * isqrt(regions),
        "design": "scaleformer" if seen["legacy"] else "duoformer",
    }
    options = {
        "patch_attn": seen["patched"],
        "qk_norm": seen["normed"],
        "layer_scale_init": seen["layer_scale"],
        "reference_quirks": True,
    }

    def taps(backbone):
        net = backbone.transformer
        as_regions = lambda y, *_: y.unflatten(0, (-1, regions))  # noqa: E731
        # of the last scale block the first token alone is computed
        found = {f"scale{i}": (block, as_regions) for i, block in enumerate(net.scale_blocks[:-1])}
        found |= {f"patch{i}": block for i, block in enumerate(net.patch_blocks)}
        found |= {f"proj{i}": layer for i, layer in backbone.projections.items()}
        if token == "channel":
            found["channel_token"] = (backbone.scale_token, lambda y, *_: y.flatten(1, 2).mT)
        return {**found, "layer4": backbone.trunk.stages[3][-1]}

    return backbone_case(DuoFormer, pack, arch, taps, options)


def transformer(pack: Pack) -> Case:
    seen = read(pack, "")
    words = pack.words
    scales = (seen["tokens"] * 3 + 1).bit_length() // 2
    words.agree(scales=scales, num_layers=scales)
    table = pack.shapes.get("pos_embed")
    side = isqrt(table[1] - 1 if table else pack.shapes["fc.weight"][1])
    has_token = seen["tokens"] != sum(4**i for i in range(scales))
    token = words.get("scale_token", "random" if has_token else "first")
    if has_token != (token in ("random", "channel")):
        raise ValueError(f"word 'scale_token' is {token!r}, but the pack has {seen['tokens']} tokens")
    net = MultiscaleFormer(
        seen["dims"],
        seen["heads"],
        seen["depth"],
        seen["mlp_ratio"],
        seen["tokens"],
        (side, side),
        pool="average" if token == "average" else "first",
        patch_attn=seen["patched"],
        layer_scale_init=seen["layer_scale"],
        qk_norm=seen["normed"],
    )
    classes = pack.shapes["head.weight"][0]
    words.agree(num_classes=classes)
    model = nn.Module()
    model.transformer = net
    if seen["patched"]:
        model.head = DuoHead(seen["dims"], classes)
    else:
        model.head = RegionHead(seen["dims"], classes, (side, side))
    published = {f"vision_transformer.{key}": value for key, value in pack.weights.items()}
    state = {key.removeprefix("backbone."): value for key, value in convert_transformer(published).items()}
    taps = {f"patch{i}": block for i, block in enumerate(net.patch_blocks)}

    def run(inputs):
        return model.head(net(inputs["x"], (side, side)))

    return Case(model, state, taps, run)
