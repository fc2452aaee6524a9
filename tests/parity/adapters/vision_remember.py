"""Vision Remember: the module between the layers of a language model."""

from math import ceil

from torch import Tensor

from dense.sequence.networks.vision_remember import VR, find_spans

from ..adapt import Case, Pack


def adapt(pack: Pack) -> Case:
    words, shapes, inputs = pack.words, pack.shapes, pack.inputs
    levels = sorted((name for name in inputs if name.startswith("feat")), key=lambda name: int(name[4:]))
    channels = [inputs[name].shape[-1] for name in levels]
    halo = words.get("halo", 1)
    own, cross = pack.has("self_qkv."), pack.has("cross_kv.")
    hidden = inputs["hidden"].shape[-1]
    inner = shapes["cross_q.weight"][0] if cross else shapes["self_out.weight"][1]
    heads = words.get("heads", shapes["cross_bias"][0] if cross else None)
    ratio = tuple(side - 2 * halo for side in shapes["cross_bias"][1:]) if cross else words.get("ratio", 2)
    words.agree(hidden=hidden, inner=inner, levels=len(levels), feature_channels=channels[0])
    if "ratio" in words and cross and set(ratio) != {ceil(words["ratio"])}:
        raise ValueError(f"word 'ratio' is {words['ratio']}, but the table of biases is of {ratio}")
    vision, guide = (inputs[name].bool() if name in inputs else None for name in ("vision", "guide"))
    grid = find_grid(pack, vision, ratio)
    model = VR(hidden, channels, ratio=ratio, halo=halo, inner=inner, heads=heads,
               self_attention=own, cross_attention=cross)  # fmt: skip
    spans = find_spans(vision, grid[0] * grid[1])
    if len(inputs[levels[0]]) == len(vision):  # a picture for each sequence, also where it is not shown
        spans = [span._replace(image=span.row) for span in spans]
    looked: list[Tensor] = []

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        looked.clear()
        features = [inputs[name] for name in levels]
        found = {"hidden": model(inputs["hidden"], features, spans, grid, guide)}
        if looked:
            found["after_self_attention"] = looked[0]
        return found

    def note(function):
        def noted(*args):
            looked.append(function(*args))
            return looked[-1]

        return noted

    model.attend_to_each_other = note(model.attend_to_each_other)
    return Case(model, dict(pack.weights), run=run)


def find_grid(pack: Pack, vision: Tensor, ratio: tuple[int, int] | int) -> tuple[int, int]:
    """Rows and columns of tokens: as a word, or as the features' sides and the ratio make them."""
    if "grid" in pack.words:
        grid = pack.words["grid"]
        return (grid, grid) if isinstance(grid, int) else tuple(grid)
    ratio = (ratio, ratio) if isinstance(ratio, int) else ratio
    sides = pack.inputs["feat0"].shape[1:3]
    grid = tuple(-(-side // r) for side, r in zip(sides, ratio, strict=True))
    if int(vision.sum(1).max()) % (grid[0] * grid[1]):
        raise ValueError(f"build has no word 'grid', and {grid} does not make the vision tokens")
    return grid
