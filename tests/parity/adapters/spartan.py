"""SpaRTAN: classifiers, dense backbones and mixers."""

from dense.backbones import SpaRTAN
from dense.backbones.spartan import ChannelMixer, SpatialMixer
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    return (network if pack.has("layers.") else operator)(pack)


def network(pack: Pack) -> Case:
    words = pack.words
    arch = SpaRTAN.adapt_arch({}, SpaRTAN.convert_official(pack.weights))
    depths = words.get("layer_depths", arch["depths"])
    if 0 in depths:  # such a stage has lost its downsampling, and with it its width
        words.skip("num_layer", "dims", "expand_ratios")
        if sum(depths) != sum(arch["depths"]):
            raise ValueError(f"word 'layer_depths' is {depths}, but the pack shows {arch['depths']}")
    else:
        dims = arch["embed_dims"]
        words.agree(num_layer=len(dims), layer_depths=arch["depths"], dims=dims[1:])
        words.agree(expand_ratios=arch["expand_ratios"])
    words.agree(init_dim=arch["embed_dims"][0])
    options = {"drop_path_rate": words.get("dropout", 0.0), "reference_quirks": True}

    def taps(backbone):
        first = backbone.stages[0][0]
        found = {"stem": backbone.downsamples[0], "smixer_b0": first.spatial, "cmixer_b0": first.channel}
        for i, (down, stage) in enumerate(zip(backbone.downsamples, backbone.stages, strict=True)):
            found |= {f"down{i}": down, f"stage{i + 1}": stage[-1] if len(stage) else down}
            if len(stage):
                found |= {f"smixer_s{i + 1}": stage[0].spatial, f"cmixer_s{i + 1}": stage[0].channel}
        return found

    return backbone_case(SpaRTAN, pack, arch, taps, options)


def operator(pack: Pack) -> Case:
    words, spatial = pack.words, pack.has("proj_in.")
    name, place = ("smixer", "spatial") if spatial else ("cmixer", "channel")
    shown = {f"stages.0.0.{name}.{key}": value for key, value in pack.weights.items()}
    if spatial:
        channels, groups = pack.shapes["proj_in.weight"][1], pack.shapes["h_conv.conv.weight"]
        words.agree(groups=groups[0] // groups[1])
        model = SpatialMixer(channels, dense=groups[1] > 1)
        taps = {"proj_in": model.proj_in, "h_conv": model.near, "h_attn": model.near_gate}
        taps |= {"l_conv": model.far, "l_attn": model.far_gate}
    else:
        hidden, channels = pack.shapes["theta.weight"][:2]
        depthwise = pack.shapes["conv.conv.weight"][1] == 1
        words.agree(expand_ratio=hidden // channels)
        kind, groups = ("early", hidden) if depthwise else ("late", channels)
        words.only("stage_kind", f"{kind}: conv groups = {groups}", kind)
        model = ChannelMixer(channels, hidden // channels, dense=depthwise)
        taps = {"theta": model.phase, "conv": model.conv, "attn": model.gate}
    words.agree(dim=channels)
    state = strip_prefix(SpaRTAN.convert_official(shown), f"backbone.stages.0.0.{place}.")
    return Case(model, state, taps, lambda x: model(x["x"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
