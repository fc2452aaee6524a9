"""PH-Reg: students, and steps of distillation with a teacher."""

import re

import torch
from torch import Tensor

from dense.adaptation import PHReg, PHRegDistiller
from dense.adaptation.ph_reg import distillation_losses, shift_views
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack

STUDENT = "student."


def adapt(pack: Pack) -> Case:
    return (step if pack.has(STUDENT) else student)(pack)


def make_arch(pack: Pack, prefix: str) -> dict:
    words, model = pack.words, f"{prefix}model."
    depth = pack.count(re.escape(f"{model}encoder.layer.") + r"(\d+)\.")
    _, rows, dims = pack.shapes[f"{model}embeddings.position_embeddings"]
    patch = pack.shapes[f"{model}embeddings.patch_embeddings.projection.weight"][-1]
    registers = pack.shapes.get(f"{prefix}registers", (1, 0, dims))[1]
    side = round((rows - 1) ** 0.5)
    words.agree(num_hidden_layers=depth, hidden_size=dims, num_registers=registers)
    words.agree(image_size=side * patch, patch_size=patch)
    return {
        **PHReg.archs["dinov2_base"],
        "embed_dims": dims,
        "depth": depth,
        "num_heads": words.get("num_attention_heads", max(dims // 64, 1)),
        "patch_size": patch,
        "img_size": side * patch,
        "num_registers": registers,
    }


def weights(pack: Pack, prefix: str) -> dict[str, Tensor]:
    return strip_prefix(PHReg.convert_official(pack.part(prefix)), "backbone.")


def student(pack: Pack) -> Case:
    model = PHReg(make_arch(pack, ""))
    count = model.num_registers

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        x = inputs["image"]
        found = {f"hidden_{i + 1}": tokens for i, (tokens, _) in enumerate(model.iterate_blocks(x))}
        tokens = model.forward_features(x)
        found |= {"hidden_0": model.embed(x)[0], "registers": tokens[:, :count], "cls": tokens[:, count]}
        found |= {"patches": tokens[:, count + 1 :], "tap.embed": found["hidden_0"][:, count:]}
        for name in pack.facts:
            if name.startswith("attention_"):
                (found[name],) = model.attention_weights(x, [int(name.removeprefix("attention_"))])
        return found

    taps = {f"layer{i}": block for i, block in enumerate(model.blocks)}
    return Case(model, weights(pack, ""), taps, run)


def step(pack: Pack) -> Case:
    words, arch = pack.words, make_arch(pack, STUDENT)
    offsets, flips = torch.tensor(words["patch_offsets"]), torch.tensor(words["flips"]).bool()
    backbone = {"type": "dense.PHReg", "arch": {**arch, "num_registers": 0}}
    model = PHRegDistiller(backbone, num_registers=arch["num_registers"])
    model.teacher.load_state_dict(weights(pack, "teacher."))
    state = {f"backbone.{key}": value for key, value in weights(pack, STUDENT).items()}

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        x = inputs["image"]
        many, mirrored = offsets.expand(len(x), -1, -1), flips.expand(len(x), -1)
        views, places = shift_views(x, many, mirrored, arch["patch_size"], model.outside)
        target = model.make_targets(x, many, mirrored)
        losses = distillation_losses(model(x), target)
        losses["loss"] = sum(losses.values())
        found = {name: loss.reshape(1) for name, loss in losses.items()}
        return {**found, "views": views, "view_index": places.float(), "target": target}

    return Case(model, state, run=run)
