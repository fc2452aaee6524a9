"""Terminator: classifiers, its operators alone, fresh slow networks, and the optimisers."""

import torch
from torch import nn

from dense.backbones import Terminator
from dense.backbones.terminator import (
    ChannelInteraction,
    GroupStandardization,
    HyperInteraction,
    HyperNetwork,
    LocalConv,
    RecursiveGatedUnit,
    global_product,
    read_arch,
    slow_loss,
)
from dense.base.kar import Kar2, Kar3
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

PARTS = {  # names of operators in packs: where they stand in a block, and in ours
    "g": ("slow_net_g", "global_kernel"),
    "l": ("slow_net_l1", "local_kernels.0"),
    "conv": ("local_interact_conv_1", "local_convs.0"),
    "rgu": ("Fast_Kernel_rgu", "rgu"),
    "hci": ("channel_mixer_hci", "channel_interaction"),
    "hi": ("hyper_interact", "interaction"),
}


def adapt(pack: Pack) -> Case:
    if not pack.weights:
        return optimizers(pack)
    return network(pack) if pack.has("blocks.") else operators(pack)


def network(pack: Pack) -> Case:
    words = pack.words
    state = Terminator.convert_official(pack.weights)
    arch = read_arch({key.removeprefix("backbone."): value.shape for key, value in state.items()})
    channels = [pack.inputs["x"].shape[1]]
    for ratio in arch["ratios"]:
        channels.append(channels[-1] * ratio)
    words.agree(size=arch["img_size"], bottleneck=arch["ratios"], channels=channels[:-1])
    words.agree(hidden_g=arch["global_dims"], hidden_l=arch["local_dims"])
    words.agree(layers_g=arch["global_depths"], local_sizes=arch["local_kernels"])
    words.only("groups", 12)

    def taps(backbone):
        found = {f"hk{i}": block.global_kernel for i, block in enumerate(backbone.blocks)}
        blocks = enumerate(backbone.blocks)
        return found | {f"block{i}": (block, lambda y, *_: y[0]) for i, block in blocks}

    case = backbone_case(Terminator, pack, arch, taps, {"in_channels": channels[0], "reference_quirks": True})
    model = case.model
    first = model.backbone.blocks[0]
    agree_on_widths(
        pack,
        {
            "g": first.global_kernel,
            "l": first.local_kernels[0],
            "gc": first.channel_interaction.kernel,
            "gs": first.interaction.spatial_kernel,
        },
    )
    words.agree(local_kernel=arch["local_kernels"][0])

    def run(inputs):
        maps, kernels = zip(*model.backbone.iterate_blocks(inputs["x"]), strict=True)
        return {"logits": model.head(maps[-1]), "slow_loss": slow_loss(kernels)[None]}

    case.run = run
    return case


def operators(pack: Pack) -> Case:
    """Those of the pack's keys; weights of a fresh slow network are rescaled once, the others stay."""
    words = pack.words
    (x,) = pack.inputs.values()
    fresh = not pack.has("conv.") and "first" in pack.facts
    words.agree(channels=x.shape[1], size=x.shape[-1])
    parts, state = nn.ModuleDict(), {}
    for name, (theirs, ours) in PARTS.items():
        if not pack.has(f"{name}."):
            continue
        start = "blocks.0.fast_multi_branch."
        weights = {f"{start}{theirs}.{key}": value for key, value in pack.part(f"{name}.").items()}
        own = strip_prefix(Terminator.convert_official(weights), f"backbone.blocks.0.{ours}.")
        parts[name] = make_part(name, own, x.shape[-1], fresh)
        if name == "conv":
            own["shift"] = torch.zeros(1)
        state |= {f"{name}.{key}": value for key, value in own.items()}
    slow = {name: parts[name] for name in ("g", "l") if name in parts}
    if "hci" in parts:
        slow["gc"] = parts["hci"].kernel
    if "hi" in parts:
        slow["gs"] = parts["hi"].spatial_kernel
    agree_on_widths(pack, slow)
    if "l" in parts:
        words.agree(local_kernel=parts["l"].size[0])
    if "groups" in words:
        parts["gibs"] = GroupStandardization(x.shape[1], words["groups"], batch_statistics=True)

    def run(inputs):
        x = inputs["x"]
        if fresh:
            return {"first": parts["g"](), "second": parts["g"]()}
        found = {}
        if "l" in parts:
            kernels = parts["l"](x)
            found["local_kernel"] = kernels.transpose(0, 1)
            if "conv" in parts:
                found["local"] = parts["conv"](x, kernels)
        if "g" in parts:
            found["hyper_kernel"] = kernel = parts["g"]()
            found["global"] = global_product(x, kernel, x)
            if "hi" in parts:
                found["hyper_interact"] = parts["hi"](found["global"], x)
        found |= {name: parts[name](x) for name in ("rgu", "hci", "gibs") if name in parts}
        return found

    return Case(parts, state, run=run)


def agree_on_widths(pack: Pack, slow: dict[str, HyperNetwork]) -> None:
    """The words of widths and layers, a number for all or a table by kind, say what the weights show."""
    for word, found in (
        ("hidden", {kind: part.output.in_features for kind, part in slow.items()}),
        ("layers", {kind: len(part.linears) for kind, part in slow.items()}),
    ):
        said = pack.words.get(word)
        if isinstance(said, dict):
            pack.words.agree(**{word: {kind: found.get(kind) for kind in said}})
        elif said is not None:
            pack.words.agree(**{word: next(iter(found.values()))})


def make_part(name: str, state: dict, size: int, fresh: bool) -> nn.Module:
    """The operator whose weights, by our names, these are."""

    def slow(start: str = "") -> tuple[int, int, int, tuple[int, ...]]:
        out, hidden = state[f"{start}output.weight"].shape
        depth = sum(key.startswith(f"{start}linears.") and key.endswith("bias") for key in state)
        return out, hidden, depth, tuple(state[f"{start}shift"].shape)

    if name == "g":
        return HyperNetwork(*slow(), rescale_after_load=fresh)
    if name == "l":
        return HyperNetwork(*slow(), state["reduce.weight"].shape[1], batch_context=True)
    if name == "conv":
        return LocalConv(len(state["mixer.bias"]), batch_statistics=True)
    if name == "rgu":
        return RecursiveGatedUnit(len(state["key.bias"]), size)
    if name == "hci":
        _, hidden, depth, (channels,) = slow("kernel.")
        return ChannelInteraction(channels, hidden, depth)
    _, hidden, depth, (channels,) = slow("channel_kernel.")
    return HyperInteraction(channels, size, (hidden, slow("spatial_kernel.")[1]), depth)


def optimizers(pack: Pack) -> Case:
    def run(inputs):
        found = {}
        for name, cls in (("kar2", Kar2), ("kar3", Kar3)):
            parameter = nn.Parameter(inputs["p"].clone())
            optimizer = cls([parameter], lr=0.1)
            for gradient in inputs["g"]:
                parameter.grad = gradient
                optimizer.step()
            found[name] = parameter.detach()
        return found

    return Case(run=run)
