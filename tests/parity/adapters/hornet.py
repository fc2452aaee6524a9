"""HorNet: classifiers, dense backbones and single operators."""

from dense.backbones import HorNet
from dense.backbones.hornet import DepthwiseFilter, GlobalLocalFilter, GnConv
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

PREFIX = "stages.0.0.gnconv."


def adapt(pack: Pack) -> Case:
    return (network if pack.has("downsample_layers.") else operator)(pack)


def network(pack: Pack) -> Case:
    words, depths = pack.words, pack.depths("stages.{}.")
    firsts = [f"stages.{i}.0." for i in range(len(depths))]
    dims = [pack.shapes[f"{first}norm1.weight"][0] for first in firsts]
    orders = [1 + pack.count(first.replace(".", r"\.") + r"gnconv\.pws\.(\d+)\.") for first in firsts]
    filters = [pack.shapes.get(f"{first}gnconv.dwconv.complex_weight") for first in firsts]
    filters = [shape and shape[1:3] for shape in filters]
    words.agree(depths=depths, orders=orders, base_dim=dims[0])
    words.agree(filter_hw=[list(size) for size in filters if size])
    words.skip("variant")
    arch = {"embed_dims": dims, "depths": depths, "orders": orders, "filter_sizes": filters}
    scale = words.get("scale", 1 / 3)

    def taps(backbone):
        found = {"stem": backbone.downsamples[0]}
        for i, stage in enumerate(backbone.stages):
            found |= {f"stage{i + 1}": stage[-1], f"gnconv_s{i + 1}b0": stage[0].gnconv}
            found[f"gfilter_s{i + 1}b0"] = unscaled(stage[0].gnconv.filter, scale)
        return found

    return backbone_case(HorNet, pack, {**HorNet.archs["tiny_7x7"], **arch}, taps, {"gate_scale": scale})


def unscaled(module, scale):
    """The factor of the gates, which is in the filter here, follows it in the published code."""
    return module, lambda y, *_: 1 / scale * y


def operator(pack: Pack) -> Case:
    words = pack.words
    alone = "complex_weight" in pack.shapes  # keys of the filter only
    place = PREFIX + ("dwconv." if alone else "")
    state = HorNet.convert_official({place + key: value for key, value in pack.weights.items()})
    spectral = pack.shapes.get("complex_weight", pack.shapes.get("dwconv.complex_weight"))
    size = spectral and spectral[1:3]
    if size:
        words.agree(h=size[0], w=size[1])
    if alone:
        channels = pack.shapes["pre_norm.weight"][0]
        model = GlobalLocalFilter(channels, size)
        taps = {"pre_norm": model.pre_norm, "dw": model.local_filter}
    else:
        channels, order = pack.shapes["proj_in.weight"][1], 1 + pack.count(r"pws\.(\d+)\.")
        words.agree(order=order)
        scale = words.get("scale", 1.0)
        model = GnConv(channels, order, scale, size, project_out=pack.has("proj_out."))
        if not size:
            kernel = pack.shapes["dwconv.weight"][-1]
            words.agree(kernel=kernel)
            model.filter = DepthwiseFilter(sum(model.widths), kernel, scale)
        taps = {"dwconv": unscaled(model.filter, scale)}
    words.agree(dim=channels)
    inner = "backbone." + PREFIX + ("filter." if alone else "")
    return Case(
        model,
        strip_prefix(state, inner),
        taps,
        lambda x: model(x["x"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    )
