"""RAVLT: classifiers, dense backbones, and its two attentions alone."""

from dense.backbones import RAVLT
from dense.backbones.rala import RankAugmentedAttention, SoftmaxAttention

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    return (network if pack.has("patch_embed.") else operator)(pack)


def network(pack: Pack) -> Case:
    depths = pack.depths("layers.{}.blocks.")
    stages = range(len(depths))
    dims = [pack.shapes[f"layers.{i}.blocks.0.norm1.norm.weight"][0] for i in stages]
    heads = [dims[i] // (2 * pack.shapes[f"layers.{i}.RoPE.angle"][0]) for i in stages]
    pack.words.skip("model")
    arch = {**RAVLT.archs["tiny"], "embed_dims": dims, "depths": depths, "num_heads": heads}

    def taps(backbone):
        found = {"stem": backbone.downsamples[0], "block0_attn": backbone.stages[0][0].attn}
        ends = [
            *backbone.downsamples[1:],
            backbone.stages[-1][-1],
        ]  # a published stage ends with the next's start
        return found | {f"stage{i + 1}": module for i, module in enumerate(ends)}

    return backbone_case(RAVLT, pack, arch, taps, once=True)


def operator(pack: Pack) -> Case:
    words, weights = pack.words, pack.part("attn.")
    kind = RankAugmentedAttention if "linear" in words["operator"] else SoftmaxAttention
    channels = len(weights["proj.weight"])
    words.agree(dim=channels)
    model = kind(channels, words.get("num_heads", channels // (2 * pack.shapes.get("rope.angle", (16,))[0])))
    nchw = words.get("layout", "NCHW") == "NCHW"
    words.only("layout", "NCHW", "NHWC")
    state = {key: value.view_as(model.get_parameter(key)) for key, value in weights.items()}

    def run(inputs):
        x = inputs["x"]
        return model(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if nchw else model(x)

    return Case(model, state, run=run, once=True)
