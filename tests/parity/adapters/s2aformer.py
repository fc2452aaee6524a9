"""S2AFormer: classifiers, single blocks, attentions and local interactions of our own reference."""

from torch import Tensor, nn

from dense.backbones import S2AFormer
from dense.backbones.s2aformer import HybridPerceptionBlock, StripAttention
from dense.layers import LocalPatchInteraction
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    if pack.has("stem."):
        return network(pack)
    if pack.has("lim."):
        return block(pack)
    return attention(pack) if pack.has("q.") else interaction(pack)


def network(pack: Pack) -> Case:
    words = pack.words
    depths = pack.depths("stages.{}.")
    dims = [pack.shapes[f"stages.{i}.0.norm1.weight"][0] for i in range(len(depths))]
    ratio = pack.shapes["stages.0.0.mlp.fc1.weight"][0] / dims[0]
    words.agree(dims=dims, depths=depths, classes=pack.shapes["head.weight"][0], mlp_ratio=ratio)
    arch = {
        **S2AFormer.archs["tiny"],
        "embed_dims": tuple(dims),
        "depths": tuple(depths),
        "num_heads": tuple(words["heads"]),
        "reductions": tuple(words.get("reductions", (8, 4, 2, 1))),
        "strip": words.get("strip", 1),
        "mlp_ratio": ratio,
    }

    def taps(backbone: S2AFormer) -> dict:
        found = {f"stage{i + 1}": stage[-1] for i, stage in enumerate(backbone.stages)}
        return found | {"stem": backbone.downsamples[0].convs[-1]}

    return backbone_case(S2AFormer, pack, arch, taps)


def make_attention(pack: Pack, prefix: str = "") -> StripAttention:
    words = pack.words
    channels, heads = pack.shapes[prefix + "v.weight"][0], words["heads"]
    strip = pack.shapes[prefix + "q.weight"][0] // heads
    reduced = prefix + "reduce.weight"
    reduction = pack.shapes[reduced][-1] if reduced in pack.shapes else 1
    words.agree(dim=channels, strip=strip, reduction=reduction)
    return StripAttention(channels, heads, reduction, strip)


def on_maps(model: nn.Module, pack: Pack, state: dict[str, Tensor], last: bool) -> Case:
    """Packs of parts are of maps (B, C, H, W) unless "layout" says NHWC."""
    pack.words.only("layout", "NCHW", "NHWC")
    given_last = pack.words.get("layout", "NCHW") == "NHWC"

    def turn(x: Tensor, to_last: bool) -> Tensor:
        return x.permute(0, 2, 3, 1) if to_last else x.permute(0, 3, 1, 2)

    def run(inputs: dict[str, Tensor]) -> Tensor:
        x = inputs["x"]
        if given_last == last:
            return model(x)
        return turn(model(turn(x, last)), given_last)

    return Case(model, state, run=run)


def converted(pack: Pack, prefix: str, ours: str) -> dict[str, Tensor]:
    state = S2AFormer.convert_official({prefix + key: value for key, value in pack.weights.items()})
    return strip_prefix(state, ours)


def attention(pack: Pack) -> Case:
    pack.words.skip("operator")
    state = converted(pack, "stages.0.0.attn.", "backbone.stages.0.0.attn.")
    return on_maps(make_attention(pack), pack, state, True)


def block(pack: Pack) -> Case:
    channels = pack.shapes["norm1.weight"][0]
    ratio = pack.shapes["mlp.fc1.weight"][0] / channels
    pack.words.skip("block")
    pack.words.agree(mlp_ratio=ratio)
    model = HybridPerceptionBlock(channels, make_attention(pack, "attn."), ratio)
    return on_maps(model, pack, converted(pack, "stages.0.0.", "backbone.stages.0.0."), True)


def interaction(pack: Pack) -> Case:
    channels = pack.shapes["conv1.weight"][0]
    pack.words.skip("operator")
    pack.words.agree(dim=channels)
    state = {key.replace("bn.", "norm."): value for key, value in pack.weights.items()}
    return on_maps(LocalPatchInteraction(channels), pack, state, False)
