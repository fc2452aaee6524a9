"""ViT: DINOv2 as the library transformers has it, with registers in front of the class token."""

from dense.backbones import ViT
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack


def adapt(pack: Pack) -> Case:
    words, weights = pack.words, pack.part("model.")
    registers = pack.weights["registers"]
    dims, patch = weights["embeddings.patch_embeddings.projection.weight"].shape[:3:2]
    grid = round((weights["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    depth = pack.count(r"model\.encoder\.layer\.(\d+)\.")
    words.agree(
        hidden_size=dims,
        num_hidden_layers=depth,
        patch_size=patch,
        image_size=grid * patch,
        num_registers=registers.shape[1],
    )
    arch = {
        **ViT.archs["small_dinov2"],
        "embed_dims": dims,
        "depth": depth,
        "num_heads": words["num_attention_heads"],
        "patch_size": patch,
        "img_size": grid * patch,
        "num_registers": registers.shape[1],
        "scale_offset": 0.1,
    }
    model = ViT(arch, registers_first=True)
    state = {**strip_prefix(ViT.convert_official(weights), "backbone."), "reg_token": registers}

    def run(inputs):
        tokens = model.forward_features(inputs["image"])
        count = registers.shape[1]
        found = {"registers": tokens[:, :count], "cls": tokens[:, count], "patches": tokens[:, count + 1 :]}
        hidden = [y for y, _ in model.iterate_blocks(inputs["image"])]
        for name in pack.facts:
            kind, _, index = name.partition("_")
            if kind == "hidden":
                found[name] = hidden[int(index) - 1] if int(index) else model.embed(inputs["image"])[0]
            elif kind == "attention":
                (found[name],) = model.attention_weights(inputs["image"], [int(index)])
        return found

    taps = {f"layer{i}": block for i, block in enumerate(model.blocks)}
    return Case(model, state, taps, run)
