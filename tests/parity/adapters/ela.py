"""ELA: the layer alone, and ResNets with it."""

from dense.backbones import ELAResNet
from dense.layers import ELA

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    if not pack.words.get("arch", "resnet").startswith("resnet"):
        raise ValueError(f"word 'arch' must name a ResNet, found {pack.words['arch']!r}")
    return (network if pack.has("layer1.") else layer)(pack)


def layer(pack: Pack) -> Case:
    shared = pack.has("conv.")
    channels = pack.shapes["gn.weight" if shared else "gn_h.weight"][0]
    pack.words.agree(channels=channels)
    return Case(ELA(channels, pack.words["variant"], shared), pack.weights)


def network(pack: Pack) -> Case:
    depths = pack.depths("layer{}.", first=1)
    last = next(i for i in (3, 2) if pack.has(f"layer1.0.conv{i}."))
    dims = [pack.shapes[f"layer{i + 1}.0.bn{last}.weight"][0] for i in range(len(depths))]
    pack.words.agree(channels=dims[0])
    arch = {
        "embed_dims": dims,
        "depths": depths,
        "expansion": 4 if last == 3 else 1,
        "variant": pack.words["variant"],
    }
    options = {"share_directions": pack.has("layer1.0.ela.conv.")}
    taps = lambda backbone: {f"layer{i + 1}": stage[-1] for i, stage in enumerate(backbone.stages)}  # noqa: E731
    return backbone_case(ELAResNet, pack, arch, taps, options)
