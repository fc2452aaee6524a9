"""TCPA: classifiers of a frozen ViT with coordinated prompts."""

from torch import Tensor, nn

from dense.adaptation import TCPA
from dense.adaptation.tcpa import ROLES
from dense.backbones import ViT

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    words = pack.words
    words.skip("backbone")  # its widths are those of the weights
    depth, dims = pack.count(r"backbone\.blocks\.(\d+)\."), pack.shapes["backbone.cls_token"][-1]
    patch = pack.shapes["backbone.patch_embed.proj.weight"][-1]
    side = round((pack.shapes["backbone.pos_embed"][1] - 1) ** 0.5)
    words.agree(depth=depth)
    vit = {
        **ViT.archs["base"],
        "embed_dims": dims,
        "depth": depth,
        "num_heads": dims // 64,  # as all of timm's
        "patch_size": patch,
        "img_size": side * patch,
    }
    sizes, lengths = zip(*(pack.shapes[f"Pool.Pool_{role}.prompts"][1:3] for role in ROLES), strict=True)
    words.agree(pool_size_cls=sizes[0], pool_size_image=sizes[1])
    words.agree(len_prompts_cls=lengths[0], len_prompts_image=lengths[1])
    options = {
        "pool_sizes": sizes,
        "prompt_lengths": lengths,
        "topk": tuple(words.get(f"topk_{role}", 10) for role in ROLES),
        "match_tokens": words.get("TDVP", True),
        "separate_roles": words.get("RDVP", True),
        "scale_values": words.get("ADVP", pack.has("ADVP_w")),
        "pixel_prompter": words.get("IPrompt", pack.has("Prompter.")),
        "use_simam": words.get("simam", False),
    }

    def taps(backbone: TCPA) -> dict[str, nn.Module]:
        trunk = backbone.trunk
        found = {"patch_embed": (trunk.patch_embed, lambda y, *_: y.flatten(2).mT), "norm": trunk.norm}
        for i, block in enumerate(trunk.blocks):
            found |= {f"block{i}": block.attn, f"block{i}_attn": block.attn, f"block{i}_mlp": block.mlp}
        return found

    case = backbone_case(TCPA, pack, {"trunk": {"type": "dense.ViT", "arch": vit}}, taps, options)
    backbone = case.model.backbone

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        with backbone.record_distances() as distances:
            found = {"logits": case.model(inputs["x"])}
        return found | ({"pool_distance": sum(distances).reshape(1)} if distances else {})

    case.run = run
    return case
