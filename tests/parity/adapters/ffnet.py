"""FFNet: classifiers, their first stages, single operators."""

import re

import torch

from dense.backbones import FFNet
from dense.backbones.ffnet import ChannelMixer, PatchMerging, TokenMixer
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

EARLY = r"stage(\d)(?:_first(\d+))?"
# our names of parts of a block, where the published one is another
PLACES = {
    "token_mixer": ("stages.0.0.token_mixer.0.main.", "backbone.stages.0.0.token_mixer."),
    "channel_mixer": ("stages.0.0.channel_mixer.main.", "backbone.stages.0.0.channel_mixer."),
    "patch_merging": ("stages.1.0.", "backbone.downsamples.1."),
}


def adapt(pack: Pack) -> Case:
    return (network if pack.has("patch_embed.") else operator)(pack)


def network(pack: Pack) -> Case:
    words = pack.words
    words.skip("variant", "drop_path_rate", "layer_scale_init_value")
    state = FFNet.convert_official(pack.weights)
    arch = FFNet.adapt_arch(FFNet.archs["1"], state)
    keys, values = zip(*arch["token_kernel_sizes"], strict=True)
    words.agree(
        depth=arch["depths"],
        embed_dim=arch["embed_dims"],
        in_dim=arch["stem_dims"],
        kernel_sizes=arch["kernel_sizes"],
        kernel_sizes1=keys,
        kernel_sizes2=values,
        expansion_ratios=arch["mlp_ratios"],
        use_layer_scale=arch["layer_scale"] > 0,
    )

    def taps(backbone):
        found = {"stem": backbone.downsamples[0]}
        for i, (merging, stage) in enumerate(zip(backbone.downsamples, backbone.stages, strict=True)):
            found |= {f"merge{i + 1}": merging, f"stage{i + 1}": stage[-1]}
            found |= {f"token_s{i + 1}b{j}": block.token_mixer for j, block in enumerate(stage)}
            found |= {f"channel_s{i + 1}b{j}": block.channel_mixer for j, block in enumerate(stage)}
        return found

    case = backbone_case(FFNet, pack, arch, taps, FFNet.read_options(state))
    early = [name for name in pack.facts if re.fullmatch(EARLY, name)]
    if early:
        backbone = getattr(case.model, "backbone", case.model)
        case.run = lambda inputs: {name: run_early(backbone, inputs["x"], name) for name in early}
    return case


def run_early(backbone: FFNet, x: torch.Tensor, name: str) -> torch.Tensor:
    """The map after stage 3 of "stage3", after its patch merging and two blocks of "stage3_first3"."""
    stage, parts = re.fullmatch(EARLY, name).groups()
    for i in range(int(stage)):
        entries = [backbone.downsamples[i], *backbone.stages[i]]
        last = parts is not None and i + 1 == int(stage)
        for entry in entries[: int(parts) + (i == 0) if last else None]:
            x = entry(x)
    return x


def operator(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    kind = "patch_merging" if pack.has("proj.") else "token_mixer" if pack.has("fc.") else "channel_mixer"
    start, ours = PLACES[kind]
    state = FFNet.convert_official({start + key: value for key, value in pack.weights.items()})

    def kernel_size(name: str) -> int:
        return max(s[-1] for key, s in shapes.items() if key.startswith(f"{name}.") and len(s) == 4)

    if kind == "patch_merging":
        channels, out_channels = pack.inputs["x"].shape[1], shapes["proj.1.conv.c.weight"][0]
        words.agree(dim=channels, out_dim=out_channels)
        model = PatchMerging(channels, out_channels)
        taps = {"dw": model[0], "bc": model[1]}
    elif kind == "token_mixer":
        channels, sizes = shapes["fc.c.weight"][0], (kernel_size("conv1"), kernel_size("conv2"))
        words.agree(dim=channels, ks1=sizes[0], ks2=sizes[1])
        model = TokenMixer(channels, sizes)
        # published before the activation
        before = (model.key, lambda y, x, *_: model.key.forward(x))
        taps = {"fc": model.query, "conv1": before, "conv2": model.value}
    else:
        (hidden, channels), size = shapes["fc1.weight"][:2], kernel_size("conv")
        words.agree(dim=channels, ks=size, expansion_ratio=hidden / channels)
        model = ChannelMixer(channels, size, hidden)
        taps = {"conv": model.conv, "fc2": model.mlp}
    return Case(model, strip_prefix(state, ours), taps)
