"""EuroSATNet: the three classifiers, their blocks and layers."""

from torch import nn
from torch.nn import functional as F

from dense.backbones import EuroSATNet
from dense.backbones.eurosat_mta import BalancedBlock
from dense.layers import CBAM, BalancedAttention, CoordinateAttention, DropBlock, SqueezeExcitation
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

BLOCK = "backbone.stages.0.0."


def adapt(pack: Pack) -> Case:
    if not pack.shapes:
        return drop_block(pack)
    if any(key in pack.shapes for key in ("stem.0.weight", "block1.conv1.weight", "fc1.weight")):
        return network(pack)
    for start, make in (("shortcut.", block), ("bn2.", block), ("alpha", balanced)):
        if pack.has(start):
            return make(pack)
    return {"ch": cbam, "sp": cbam, "ex": excitation}.get(next(iter(pack.shapes))[:2], coordinate)(pack)


def network(pack: Pack) -> Case:
    words = pack.words
    state = EuroSATNet.convert_official(pack.weights)
    arch = EuroSATNet.adapt_arch(EuroSATNet.archs["balanced12"], state)
    images = next(iter(pack.inputs.values()))
    words.agree(in_channels=images.shape[1])
    if arch["design"] == "baseline" and not pack.has("fc1."):
        arch["img_size"] = images.shape[-1]
    options = {
        **EuroSATNet.read_options(state),
        "block_size": words.get("block_size", 7),
        "reference_quirks": True,
    }
    rate = words.get("drop_prob")
    if rate is not None:
        arch["drop_block"] = (rate,) * len(arch["depths"])
    words.agree(**shown_by_attention(pack))
    words.skip("channels", "out_channels", "stride")

    def taps(backbone):
        design, stages = backbone.design, backbone.stages
        if design == "balanced":
            found = {"stem": backbone.downsamples[0]}
            found |= {f"stage{i + 1}": stage[-1] for i, stage in enumerate(stages)}
            found |= {
                f"stage{i + 1}_{j}": block for i, stage in enumerate(stages) for j, block in enumerate(stage)
            }
            return found
        if design == "baseline":
            return {f"pool{i}": layer for i, layer in enumerate(backbone.downsamples) if i}
        found = {
            f"block{i}": layer for i, layer in enumerate(backbone.downsamples) if 0 < i < len(stages) - 1
        }
        last = stages[-1][0].convs[0]
        # published before the activation
        found[f"bn{len(stages)}"] = (last, lambda y, x, *_: last.forward(x))
        found |= {f"attention{i + 1}": s[-1].attention for i, s in enumerate(stages) if s[-1].attention}
        return found

    case = backbone_case(EuroSATNet, pack, arch, taps, options)
    if hasattr(case.model, "head") and arch["design"] == "baseline":
        case.taps["fc1"] = case.model.head.hidden
        case.taps[f"pool{len(arch['depths'])}"] = (
            case.model.backbone.stages[-1],
            lambda y, *_: F.max_pool2d(y, 2),
        )
    return case


def shown_by_attention(pack: Pack) -> dict:
    """Words of the attention in a network or block, as the first of its keys shows them."""
    for key, shape in pack.shapes.items():
        if key.endswith("coord_attention.conv1.weight"):
            return {"reduction": shape[1] // shape[0]}
        if key.endswith("channel_attention.fc.0.weight"):
            kernel = pack.shapes[key.replace("channel_attention.fc.0", "spatial_attention.conv")][-1]
            return {"reduction": shape[1] // shape[0], "kernel_size": kernel}
    return {}


def block(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    out_channels, in_channels = shapes["conv1.weight"][:2]
    words.agree(in_channels=in_channels, out_channels=out_channels, channels=out_channels)
    coordinate = shapes["attention.coord_attention.conv1.weight"][0]
    excited = shapes["attention.se_attention.excitation.0.weight"][0]
    words.agree(reduction=out_channels // coordinate)
    model = BalancedBlock(
        in_channels,
        out_channels,
        words.get("stride", 1),
        words.get("drop_prob", 0.0),
        words.get("block_size", 7),
        True,
        out_channels // coordinate,
        out_channels // excited,
    )
    official = {f"stage1.0.{key}": value for key, value in pack.weights.items()}
    state = strip_prefix(EuroSATNet.convert_official(official), BLOCK)
    taps = {"dropblock": model.drop_block, "attention": model.attention}
    if model.shortcut is not None:
        taps["shortcut"] = model.shortcut
    return Case(model, state, taps)


def attention_state(pack: Pack, published: str, ours: str) -> dict:
    official = {f"stage1.0.attention.{published}{key}": value for key, value in pack.weights.items()}
    return strip_prefix(EuroSATNet.convert_official(official), f"{BLOCK}attention.{ours}")


def balanced(pack: Pack) -> Case:
    hidden, channels = pack.shapes["coord_attention.conv1.weight"][:2]
    excited = pack.shapes["se_attention.excitation.0.weight"][0]
    pack.words.agree(channels=channels, reduction=channels // hidden)
    model = BalancedAttention(channels, channels // hidden, channels // excited)
    taps = {
        "coord": (model, lambda y, x, *_: model.coordinate(x)),
        "se": (model, lambda y, x, *_: model.se(x)),
    }
    return Case(model, attention_state(pack, "", ""), taps)


def coordinate(pack: Pack) -> Case:
    hidden, channels = pack.shapes["conv1.weight"][:2]
    pack.words.agree(channels=channels, reduction=channels // hidden)
    model = CoordinateAttention(channels, channels // hidden)
    taps = {"act": model.squeeze, "conv_h": model.rows, "conv_w": model.columns}
    train = "training mode" in pack.notes
    return Case(model, attention_state(pack, "coord_attention.", "coordinate."), taps, train=train)


def excitation(pack: Pack) -> Case:
    hidden, channels = pack.shapes["excitation.0.weight"]
    pack.words.agree(channels=channels, reduction=channels // hidden)
    model = SqueezeExcitation(channels, hidden, bias=False)
    return Case(model, attention_state(pack, "se_attention.", "se."))


def cbam(pack: Pack) -> Case:
    hidden, channels = pack.shapes["channel_attention.fc.0.weight"]
    kernel = pack.shapes["spatial_attention.conv.weight"][-1]
    pack.words.agree(channels=channels, reduction=channels // hidden, kernel_size=kernel)
    model = CBAM(channels, channels // hidden, kernel)
    official = {f"block1.attention.{key}": value for key, value in pack.weights.items()}
    state = strip_prefix(EuroSATNet.convert_official(official), f"{BLOCK}attention.")
    return Case(model, state, {"channel": (model, lambda y, x, *_: model.gate_channels(x))})


def drop_block(pack: Pack) -> Case:
    words = pack.words
    layer = DropBlock(words.get("drop_prob", 0.1), words.get("block_size", 7), reference_quirks=True)

    class Given(nn.Module):
        """Draws the pack's noise."""

        def forward(self, x, u):
            return layer.drop(x, u) if layer.rate else x

    return Case(Given(), train=True)
