"""SHViT: classifiers, dense backbones and single operators."""

from dense.backbones import SHViT
from dense.backbones.shvit import PatchMerging, SingleHeadAttention
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

DOWNSAMPLING = 3  # parts of it at the head of each stage but the first
# In `shvit_s1` the input of a ReLU is -1.4e-6 where the others are about 2. Rounding in float32 may turn its
# sign, which changes the gradient by 6e-3 of its rms; the published code agrees with float64.
GRADIENT = {"double": True}


def adapt(pack: Pack) -> Case:
    return (network if pack.has("patch_embed.") else operator)(pack)


def network(pack: Pack) -> Case:
    words, depths = pack.words, pack.depths("blocks{}.", first=1)
    firsts = [f"blocks{i + 1}.{DOWNSAMPLING if i else 0}." for i in range(len(depths))]
    depths = [depth - (DOWNSAMPLING if i else 0) for i, depth in enumerate(depths)]
    dims = [pack.shapes[f"{first}conv.m.c.weight"][0] for first in firsts]
    attending = [pack.shapes.get(f"{first}mixer.m.pre_norm.weight", (None,))[0] for first in firsts]
    types = ["i" if channels is None else "s" for channels in attending]
    words.agree(depth=depths, embed_dim=dims, types=types, distillation=pack.has("head_dist."))
    partial = words.get("partial_dim", attending)
    words.agree(partial_dim=[own if own else other for own, other in zip(attending, partial, strict=True)])
    words.only("qk_dim", 16, [16] * len(depths))
    words.skip("variant")
    arch = {"embed_dims": dims, "depths": depths, "attention_channels": attending}

    def taps(backbone):
        found = {"stem": backbone.downsamples[0], "shsa": backbone.stages[1][0].mixer}
        found |= {f"merge{i}": down[1] for i, down in enumerate(backbone.downsamples) if i}
        return found | {f"stage{i + 1}": stage[-1] for i, stage in enumerate(backbone.stages)}

    options = {"distillation": pack.has("head_dist.")}
    return backbone_case(SHViT, pack, {**SHViT.archs["s1"], **arch}, taps, options, **GRADIENT)


def operator(pack: Pack) -> Case:
    words, merging = pack.words, pack.has("conv3.")
    place = "blocks2.1." if merging else "blocks2.3.mixer.m."
    state = SHViT.convert_official({place + key: value for key, value in pack.weights.items()})
    if merging:
        channels, out_channels = pack.shapes["conv1.c.weight"][1], pack.shapes["conv3.c.weight"][0]
        words.agree(dim=channels, out_dim=out_channels)
        model, inner = PatchMerging(channels, out_channels), "backbone.downsamples.1.1."
        # published before the activation
        taps = {"conv2": (model.conv2, lambda y, x, *_: model.conv2.forward(x)), "se": model.se}
    else:
        channels, attending = pack.shapes["proj.1.c.weight"][0], pack.shapes["pre_norm.weight"][0]
        qk_channels = (pack.shapes["qkv.c.weight"][0] - attending) // 2
        words.agree(dim=channels, pdim=attending, qk_dim=qk_channels)
        model, inner = SingleHeadAttention(channels, attending, qk_channels), "backbone.stages.1.0.mixer."
        taps = {"pre_norm": model.pre_norm, "qkv": model.qkv}
    return Case(model, strip_prefix(state, inner), taps, **GRADIENT)
