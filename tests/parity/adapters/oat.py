"""OAT: the network, the objective of its table of positions, and scores of scanpaths."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dense.gaze.metrics import behaviour, sequence_score
from dense.gaze.networks.oat import OAT, position_table_loss

from ..adapt import Case, Pack

FREQUENCIES = ("exp1", "exp2")


def adapt(pack: Pack) -> Case:
    if "img" in pack.inputs:
        return network(pack)
    return table(pack) if pack.weights else Case(run=scores)


def network(pack: Pack) -> Case:
    words, inputs, shapes = pack.words, pack.inputs, pack.shapes
    objects = inputs["img"].shape[1]
    dims = shapes["cross_attentions.0.decode_fc.weight"][1]
    rows, columns = words.get("rows"), words.get("cols")
    rows, columns = rows or objects // columns, columns or objects // rows
    table = inputs.get("pe")
    arch = {
        "grid": (rows, columns),
        "embed_dims": dims,
        "depth": pack.count(r"transformer_encoder\.layers\.(\d+)"),
        "num_heads": words.get("heads", 4),
        "ffn_dims": shapes["transformer_encoder.layers.0.linear1.weight"][0],
        "readout_heads": pack.count(r"cross_attentions\.(\d+)"),
        "key_dims": words.get("d_k", 512),  # no weight shows it
        "pyramid": words.get("spp", 0),
        "table": (1, 1) if table is None else tuple(table.shape),
    }
    words.agree(objects=objects, emb=dims, ffn=arch["ffn_dims"], layers=arch["depth"])
    words.agree(readout_heads=arch["readout_heads"])
    kind = str(words.get("position", ""))
    words.skip("columns", "sigma")  # of the fitting of the table, which is given
    model = OAT(
        arch,
        picture_size=inputs["img"].shape[2:4],
        positions="sinusoidal" if table is None else "learned",
        frequency=next((name for name in FREQUENCIES if name in kind), "linear"),
        reference_quirks=True,
    )
    state = dict(pack.weights) if table is None else {**pack.weights, "position_table": table}

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        path = inputs["scanpath"].T
        logits = model(inputs["img"].permute(0, 1, 4, 2, 3), inputs["target"], path[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), path[:, 1:].flatten(), ignore_index=model.padding)
        return {"logits": logits.transpose(0, 1), "loss": loss[None]}

    def pictures(output: Tensor, images: Tensor, target: Tensor, path: Tensor) -> Tensor:
        scene = model.encode(images, target)
        target = scene.pictures[torch.arange(len(target)), target]
        return torch.cat((scene.pictures[:, : model.num_objects], target[:, None]), 1)

    taps = {
        "cnn": (model, pictures),
        "encoder": (model.encoder[-1], lambda y, *_: y.transpose(0, 1)),
        "decoder": (model.decoder[-1], lambda y, *_: y[0][:, 0].transpose(0, 1)),
    }
    for i, pointer in enumerate(model.pointers):
        taps[f"cross{i}"] = (pointer, lambda y, *_: y.transpose(0, 1)[..., None])
    taps = {name: tap for name, tap in taps.items() if f"tap.{name}" in pack.facts}
    return Case(model, OAT.convert_official(state), taps, run)


def table(pack: Pack) -> Case:
    rows, columns = pack.shapes["W"]
    pack.words.agree(rows=rows, columns=columns)
    holder = nn.ParameterDict({"W": torch.zeros(rows, columns)})
    sigma = pack.words.get("sigma", 2.0)

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        loss = position_table_loss(holder["W"], sigma)
        (gradient,) = torch.autograd.grad(loss, holder["W"])
        return {"loss": loss[None], "grad": gradient}

    return Case(holder, pack.part(""), run=run, once=True)


def scores(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Row b has the first 10 - b predicted and 8 + b % 3 true fixations."""
    pairs = [
        (found[: len(found) - b].numpy(), wanted[: 8 + b % 3].numpy(), int(target))
        for b, (found, wanted, target) in enumerate(
            zip(inputs["pred"], inputs["gt"], inputs["target"], strict=True)
        )
    ]
    return {
        "sequence_score": torch.tensor([sequence_score(found, wanted) for found, wanted, _ in pairs]),
        "behaviour": torch.stack([torch.from_numpy(behaviour(found, target)) for found, _, target in pairs]),
    }
