"""DependencyViT: classifiers, and reversed attention alone."""

from dense.backbones import DependencyViT
from dense.backbones.dependency_vit import ReversedAttention
from dense.layers import record_attention

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    return (network if pack.has("blocks.") else operator)(pack)


def network(pack: Pack) -> Case:
    words = pack.words
    dims, _, _, patch = pack.shapes["patch_embed.proj.weight"]
    depth = pack.count(r"blocks\.(\d+)\.")
    heads = pack.shapes["blocks.0.attn.head_selector.weight"][0]
    words.agree(dim=dims, patch=patch, depth=depth, heads=heads)
    if pack.has("head."):
        words.agree(classes=pack.shapes["head.weight"][0])
    words.skip("classes")
    arch = {
        "embed_dims": dims,
        "depth": depth,
        "num_heads": heads,
        "patch_size": patch,
        "img_size": words.get("img", 224),
        "prune_blocks": tuple(i - 1 for i in words.get("prune_after_attention_of_blocks", ())),
        "prune_ratio": words.get("ratio", 0.16),
    }
    options = {"positions": pack.has("pos_embed"), "temperature": words.get("temperature", 0.1)}
    case = backbone_case(DependencyViT, pack, arch, lambda backbone: {}, options)
    trunk = getattr(case.model, "backbone", case.model)

    def run(inputs):
        x = inputs["x"]
        *_, last = trunk.iterate_messages(x)
        found = {"logits": case.model(x), "message": last.message}
        dependencies = trunk.dependencies(x)
        found |= {f"dependency_{i}": each.weights for i, each in enumerate(dependencies)}
        return found | {
            "dependency_first": dependencies[0].weights,
            "dependency_last": dependencies[-1].weights,
        }

    case.run = run
    return case


def operator(pack: Pack) -> Case:
    words = pack.words
    heads, dims = pack.shapes["head_selector.weight"]
    words.agree(dim=dims, heads=heads)
    model = ReversedAttention(dims, heads, temperature=words.get("temperature", 0.1))

    def run(inputs):
        x = inputs["x"]
        message = inputs["m"].sigmoid() if "m" in inputs else x.new_ones(x.shape[:2])
        out, sent = model(x, message)
        with record_attention(model) as recorded:
            model(x, message)
        return {"out": out, "message": sent, "dependency": recorded[""][0].sum(1)}

    return Case(model, pack.weights, run=run)
