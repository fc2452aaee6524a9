"""LSNet: classifiers and single operators."""

import re
from math import isqrt

from torch import Tensor

from dense.backbones import LSNet
from dense.backbones.lsnet import DOWNSAMPLING, Attention, LSConv, RepVGGDW, order_taps, rename
from dense.ops import involution
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

# Filled weights make activations large: the published code itself moves the logits by 8e-5 where it runs in
# float64, and the signs of inputs of ReLUs, which change the gradient, with them.
ROUNDED = {"logits": 1e-3, "grad.x.of.logits": 1e-3}
EARLY = r"stage(\d)(?:_first(\d+))?"


def adapt(pack: Pack) -> Case:
    if pack.has("patch_embed."):
        return network(pack)
    if pack.has("lkp."):
        return lsconv(pack)
    if pack.has("conv1."):
        return repvggdw(pack)
    return attention(pack) if pack.has("attn.") or pack.has("qkv.") else aggregation(pack)


def network(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    stages = max(int(match[1]) for key in shapes if (match := re.match(r"blocks(\d+)\.", key)))
    depths = []
    for stage in range(stages):
        parts = pack.count(rf"blocks{stage + 1}\.(\d+)\.")
        depths.append(parts - (DOWNSAMPLING if stage else 0))
    dims = [shapes["patch_embed.4.c.weight"][0]]
    dims += [shapes[f"blocks{stage + 1}.1.c.weight"][0] for stage in range(1, stages)]
    words.only("patch_size", 8)
    words.skip("variant")
    words.agree(embed_dim=dims, depth=depths, distillation=pack.has("head_dist."))
    tables = [shape for key, shape in shapes.items() if key.endswith(".attention_biases")]
    heads, positions = tables[0] if tables else (4, 16)
    named = words.get("num_heads", heads)
    if tables and (named[-1] if isinstance(named, list) else named) != heads:
        raise ValueError(f"word 'num_heads' is {named!r}, but the pack shows {heads} in the last stage")
    side = words.get("img_size", 64 * isqrt(positions)) // 8
    for _ in range(stages - 1):
        side = -(-side // 2)
    if tables and side != isqrt(positions):
        raise ValueError(f"word 'img_size' is {words['img_size']}, but the pack has tables of {positions}")
    key_dims = {shape[0] // heads for key, shape in shapes.items() if key.endswith(".dw.c.weight")}
    words.only("key_dim", *(key_dims or {16}))
    arch = {"embed_dims": dims, "depths": depths, "num_heads": heads}

    def taps(backbone):
        found = {"stem": backbone.downsamples[0]}
        found |= {f"stage{i + 1}": stage for i, stage in enumerate(backbone.stages)}
        for i, blocks in enumerate(backbone.stages, 1):
            for j, block in enumerate(blocks):
                found[f"b{i}_{j + (DOWNSAMPLING if i > 1 else 0)}"] = block
                if hasattr(block, "se"):
                    found.setdefault(f"se_s{i}", block.se)
                elif isinstance(block.mixer, Attention):
                    found.setdefault(f"attn_s{i}", block.mixer)
                else:
                    found.setdefault(f"lsconv_s{i}", block.mixer)
        return found

    options = {"distillation": pack.has("head_dist."), "resolution": isqrt(positions)}
    case = backbone_case(LSNet, pack, arch, taps, options, double=True, tolerances=ROUNDED)
    early = [name for name in pack.facts if re.fullmatch(EARLY, name)]
    if early:
        backbone = getattr(case.model, "backbone", case.model)
        case.run = lambda inputs: {name: run_early(backbone, inputs["x"], name) for name in early}
    return case


def run_early(backbone: LSNet, x: Tensor, name: str) -> Tensor:
    """The map after stage 3 of "stage3", after four of its published entries of "stage3_first4"."""
    stage, parts = re.fullmatch(EARLY, name).groups()
    for i in range(int(stage)):
        before = backbone.downsamples[i] if i else [backbone.downsamples[0]]
        entries = [*before, *backbone.stages[i]]
        last = parts is not None and i + 1 == int(stage)
        for entry in entries[: int(parts) + (i == 0) if last else None]:
            x = entry(x)
    return x


def lsconv(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    embed_dims, large = shapes["bn.weight"][0], shapes["lkp.cv2.c.weight"][-1]
    size = words.get("sks", 3)
    group_size = embed_dims * size**2 // shapes["lkp.cv4.weight"][0]
    words.agree(dim=embed_dims, lks=large, groups=group_size)
    model = LSConv(embed_dims, large_kernel_size=large, kernel_size=size, group_size=group_size)
    state = _convert(pack, "blocks2.3.mixer.")
    state = {key: order_taps(key, value, size**2) for key, value in state.items()}
    taps = {
        "cv2": model.lkp.cv2,
        "lkp_w": (model.lkp, lambda kernels, *_: kernels.flatten(3, 4).permute(0, 4, 3, 1, 2)),
    }
    return Case(model, state, taps)


def _convert(pack: Pack, place: str) -> dict[str, Tensor]:
    """Weights of an operator as those of a block of a network, taps in the published order."""
    state = {rename(place + key): value for key, value in pack.weights.items()}
    return strip_prefix(state, rename(place))


def repvggdw(pack: Pack) -> Case:
    channels = pack.shapes["conv.c.weight"][0]
    pack.words.agree(dim=channels)
    return Case(RepVGGDW(channels), _convert(pack, "blocks1.0.mixer."))


def attention(pack: Pack) -> Case:
    words, prefix = pack.words, "attn." if pack.has("attn.") else ""
    shapes = {key.removeprefix(prefix): shape for key, shape in pack.shapes.items()}
    heads, positions = shapes["attention_biases"]
    embed_dims, values = shapes["proj.1.c.weight"][:2]
    width = shapes["dw.c.weight"][0] // heads
    words.agree(dim=embed_dims, num_heads=heads, key_dim=width, resolution=isqrt(positions))
    words.agree(attn_ratio=values / heads / width)
    model = Attention(embed_dims, heads, width, values // heads, isqrt(positions))
    weights = {k.removeprefix(prefix): v for k, v in pack.weights.items()}
    state = LSNet.convert_official({f"blocks4.3.mixer.m.{k}": v for k, v in weights.items()})
    taps = {"qkv": model.qkv, "q_dw": model.dw}
    return Case(model, strip_prefix(state, "backbone.stages.3.1.mixer."), taps)


def aggregation(pack: Pack) -> Case:
    channels, (_, groups, taps, *_) = pack.inputs["x"].shape[1], pack.inputs["w"].shape
    side = isqrt(taps)
    pack.words.agree(channels=channels, kernel_channels=groups, ks=side)

    def run(inputs):
        kernels = inputs["w"].permute(0, 3, 4, 2, 1).unflatten(3, (side, side))
        return {"y": involution(inputs["x"].permute(0, 2, 3, 1), kernels).permute(0, 3, 1, 2)}

    return Case(run=run)
