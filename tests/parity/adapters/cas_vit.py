"""CAS-ViT: classifiers, their first stages, dense backbones, single mixers."""

import re

from dense.backbones import CASViT
from dense.backbones.cas_vit import AdditiveMixer
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

EARLY = r"stage(\d)"


def adapt(pack: Pack) -> Case:
    return (network if pack.has("patch_embed.") else mixer)(pack)


def network(pack: Pack) -> Case:
    words = pack.words
    words.skip("variant")
    state = CASViT.convert_official(pack.weights)
    depths = CASViT.adapt_arch(CASViT.archs["xs"], state)["depths"]
    dims = [pack.shapes["patch_embed.3.weight"][0]]
    dims += [pack.shapes[f"network.{2 * i - 1}.proj.weight"][0] for i in range(1, len(depths))]
    distillation = pack.has("dist_head.")
    words.agree(layers=depths, embed_dims=dims, fork_feat=not pack.has("head."))
    if words.get("distillation", distillation) != distillation and pack.has("head."):
        raise ValueError(f"word 'distillation' is {words['distillation']}, but the pack shows {distillation}")

    def taps(backbone):
        found = {"stem": backbone.downsamples[0]}
        for i, (down, blocks) in enumerate(zip(backbone.downsamples, backbone.stages, strict=True), 1):
            found |= {f"embed{i}": down, f"stage{i}": blocks[-1]}
            for j, block in enumerate(blocks):
                found |= {f"local_s{i}b{j}": block.local, f"attn_s{i}b{j}": block.attn}
        return found

    case = backbone_case(
        CASViT, pack, {"embed_dims": dims, "depths": depths}, taps, {"distillation": distillation}
    )
    early = [name for name in pack.facts if re.fullmatch(EARLY, name)]
    if early:
        backbone = getattr(case.model, "backbone", case.model)

        def run(inputs):
            maps = list(backbone.iterate_stages(inputs["x"]))
            return {name: maps[int(re.fullmatch(EARLY, name)[1]) - 1] for name in early}

        case.run = run
    return case


def mixer(pack: Pack) -> Case:
    channels = pack.shapes["proj.weight"][0]
    pack.words.agree(dim=channels)
    state = CASViT.convert_official({f"network.0.0.attn.{key}": value for key, value in pack.weights.items()})
    model = AdditiveMixer(channels)
    model.qkv.norm.eps = 0.0  # the operator has none
    state = strip_prefix(state, "backbone.stages.0.0.attn.")
    return Case(model, state, {"dwc": model.dwc}, constant=r"qkv\.norm\..*")
