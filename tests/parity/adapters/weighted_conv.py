"""Weighted convolution: the layers, and networks whose convolutions are weighted."""

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dense.backbones import ResNetCifar, VGGCifar
from dense.layers import WeightedConv1d, WeightedConv2d, WeightedConv3d
from dense.layers.weighted_conv import DENSITIES, convert_density
from dense.restoration.networks.dncnn import DnCNN
from dense.restoration.networks.nafnet import NAFNet

from ..adapt import Case, Pack, backbone_case

LAYERS = {1: WeightedConv1d, 2: WeightedConv2d, 3: WeightedConv3d}
OPTIONS = {"s": "stride", "p": "padding", "groups": "groups", "dil": "dilation"}
CONSTANT = r"(.*\.)?density"  # where it is not learned, packs do not have it


def adapt(pack: Pack) -> Case:
    hosts = {"features.": vgg, "layer1.": resnet, "net.": dncnn, "intro.": nafnet, "fc.": example}
    found = (make for key, make in hosts.items() if pack.has(key))
    return next(found, layers)(pack)


# --------------------------------------------------------------------------------------------------- layers


def layers(pack: Pack) -> Case:
    """Single layers, each on the input of its dimensions."""
    names = sorted({key.partition(".")[0] for key in pack.shapes})
    worded = any(name in pack.words for name in names)
    model = nn.ModuleDict({name: (in_words if worded else trainable)(pack, name) for name in names})
    state = {
        f"{name}.{key}": x for name in names for key, x in convert_density(pack.part(f"{name}.")).items()
    }

    def run(inputs):
        found = {}
        for name, layer in model.items():
            y = layer(next(x for x in inputs.values() if x.ndim == layer.weight.ndim))
            places = [out for out in pack.facts if out == name or out.startswith(f"{name}_")]
            found[places[0] if places else name] = y
            if layer.density.requires_grad:
                wanted = (layer.density, layer.weight)
                grads = torch.autograd.grad(y.square().sum() / 2, wanted, retain_graph=True)
                found |= dict(zip((f"den_grad_{name}", f"weight_grad_{name}"), grads, strict=True))
        return found

    return Case(model, state, run=run, constant=CONSTANT, once=True)


def in_words(pack: Pack, name: str) -> nn.Module:
    """A layer as "2d 4->6 k3 den[.7] s2 p1 groups2 bias"; what is left out is as published."""
    text = pack.words[name].replace("default padding 1", "")
    dims, channels, kernel, *rest = text.split()
    options = {}
    for word in rest:
        if density := re.fullmatch(r"den\[(.*)\]", word):
            options["density"] = [float(value) for value in density[1].split(",") if value]
        elif (option := re.fullmatch(r"([a-z]+)(\d+)", word)) and option[1] in OPTIONS:
            options[OPTIONS[option[1]]] = int(option[2])
        elif word == "bias":
            options["bias"] = True
        else:
            raise ValueError(f"word {name!r} of build has an unknown part {word!r}: {text!r}")
    options["trainable"] = f"{name}.den" in pack.shapes
    return LAYERS[int(dims[0])].published(*map(int, channels.split("->")), int(kernel[1:]), **options)


def trainable(pack: Pack, name: str) -> nn.Module:
    channels, in_channels, kernel, *_ = shape = pack.shapes[f"{name}.weight"]
    pack.words.agree(kernel=kernel)
    options = {"padding": pack.words.get("padding", 1), "bias": f"{name}.bias" in pack.shapes}
    layer = LAYERS[len(shape) - 2]
    density = [1.0] * (kernel // 2)
    return layer.published(in_channels, channels, kernel, density=density, trainable=True, **options)


# ------------------------------------------------------------------------------------------------- networks


class Example(nn.Module):
    """The repository's example in 2d. The pack states no densities; those below follow from its outputs."""

    def __init__(self, first: tuple[int, ...], second: tuple[int, ...], last: tuple[int, ...]):
        super().__init__()
        self.conv1 = WeightedConv2d(first[1], first[0], 3, padding=1, density=(0.75,))
        self.conv2 = WeightedConv2d(second[1], second[0], 5, padding=2, density=(1.5, 0.75))
        self.fc = nn.Linear(last[1], last[0])

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x).relu(), 2)
        x = F.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc(x.flatten(1))


def example(pack: Pack) -> Case:
    pack.words.skip("text")  # "the 2d example network of the repository"
    model = Example(*(pack.shapes[f"{name}.weight"] for name in ("conv1", "conv2", "fc")))
    return Case(
        model, pack.weights, {"conv1": model.conv1, "conv2": model.conv2}, constant=CONSTANT, once=True
    )


def density(pack: Pack) -> dict | None:
    """By kernel size; none where the convolutions are plain."""
    given = pack.words.get("den", {size: values for size, values in DENSITIES.items() if values})
    return given if any(key.endswith(".alfa") for key in pack.shapes) else None


def vgg(pack: Pack) -> Case:
    kernels = {
        int(key.split(".")[1]): shape
        for key, shape in pack.shapes.items()
        if key.startswith("features.") and key.endswith(".weight") and len(shape) == 4
    }
    numbers, stages = sorted(kernels), []
    for number, before in zip(numbers, [None, *numbers], strict=False):
        if before is None or number - before > 3:  # a pooling lies between
            stages.append([])
        stages[-1].append(kernels[number][0])
    cfg = [word for stage in stages for word in (*stage, "M")]
    pack.words.only("cfg", cfg, cfg[:-1])
    pack.words.agree(classes=pack.shapes["classifier.weight"][0])
    arch = {"embed_dims": [stage[0] for stage in stages], "depths": [len(stage) for stage in stages]}
    options = {"density": density(pack), "in_channels": kernels[0][1]}
    return backbone_case(VGGCifar, pack, arch, stage_taps, options, constant=CONSTANT, once=True)


def resnet(pack: Pack) -> Case:
    pack.words.skip("host")  # "resnet18, 3x3 stride-1 stem, no max-pool, 100 classes"
    depths = pack.depths("layer{}.", first=1)
    arch = {
        "embed_dims": [pack.shapes[f"layer{i + 1}.0.conv1.weight"][0] for i in range(len(depths))],
        "depths": depths,
    }
    pack.words.agree(classes=pack.shapes["fc.weight"][0])
    options = {"density": density(pack), "in_channels": pack.shapes["conv1.weight"][1]}
    return backbone_case(ResNetCifar, pack, arch, stage_taps, options, constant=CONSTANT, once=True)


def stage_taps(backbone: nn.Module) -> dict[str, nn.Module]:
    return {f"layer{i + 1}": stage[-1] for i, stage in enumerate(backbone.stages)}


def dncnn(pack: Pack) -> Case:
    kernels = [shape for shape in pack.shapes.values() if len(shape) == 4]
    channels, in_channels = kernels[0][:2]
    pack.words.agree(depth=len(kernels), channels=channels)
    model = DnCNN(len(kernels), channels, in_channels, density=density(pack))
    return Case(model, model.convert_official(pack.weights), constant=CONSTANT, once=True)


def nafnet(pack: Pack) -> Case:
    width, in_channels = pack.shapes["intro.weight"][:2]
    middle = pack.count(r"middle_blks\.(\d+)\.")
    encoder, decoder = pack.depths("encoders.{}."), pack.depths("decoders.{}.")
    pack.words.agree(width=width, middle=middle, enc=encoder, dec=decoder)
    model = NAFNet(width, encoder, middle, decoder, in_channels, density=density(pack))
    taps = {f"enc{i}": blocks for i, blocks in enumerate(model.encoders)}
    taps |= {f"dec{i}": blocks for i, blocks in enumerate(model.decoders)}
    taps["mid"] = model.middle_blks
    return Case(model, model.convert_official(pack.weights), taps, constant=CONSTANT, once=True)
