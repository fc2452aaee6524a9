"""Weighted convolution: the layers, and networks whose convolutions are weighted."""

import re
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from dense.backbones import ClassificationNetwork, ResNetCifar, VGGCifar
from dense.layers import WeightedConv1d, WeightedConv2d, WeightedConv3d
from dense.layers.weighted_conv import convert_density
from dense.restoration.dncnn import DnCNN
from dense.restoration.nafnet import NAFNet

SOURCE = "cammarasana123/weightedConvolution2.0"
LAYERS = {"1": WeightedConv1d, "2": WeightedConv2d, "3": WeightedConv3d}


def outputs(pack, weights, inputs):
    build = pack["build"]
    if not isinstance(build, Mapping):
        return example(pack, weights, inputs["x"])
    if "kernel" in build:
        return trainable_layers(pack, weights, inputs)
    if "den" not in build:
        return fixed_layers(pack, weights, inputs)
    find = [
        ("cfg", vgg),
        ("host", resnet),
        ("depth", dncnn),
        ("width", nafnet),
    ]
    return next(run for key, run in find if key in build)(pack, weights, inputs["x"])


def load(model, state):
    """Load all but what packs do not have: step counters, and densities that are not learned."""
    own = ("num_batches_tracked", "density")
    kept = {key: value for key, value in model.state_dict().items() if key.endswith(own)}
    model.load_state_dict({**kept, **state})
    return model.eval()


def part(weights, name):
    return {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}


def gradients(pack, found, inputs):
    for name in pack["outputs"]:
        if match := re.fullmatch(r"grad\.(\w+)\.of\.(\w+)", name):
            y = found[match[2]]
            loss = (y * pack["probe"](y.shape)).sum()
            found[name] = torch.autograd.grad(loss, inputs[match[1]], retain_graph=True)[0]
    return {name: value.detach() for name, value in found.items()}


def fixed_layers(pack, weights, inputs):
    """Layers in words, as "2d 4->6 k3 den[.7] s2 p1 groups2 bias"; what is left out is as published."""
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    found = {}
    for name, words in pack["build"].items():
        dims, channels, kernel, *rest = words.split()
        values = re.search(r"den\[([^]]*)\]", words)[1]
        options = {"density": [float(d) for d in values.split(",") if d]}
        for key, short in (("stride", "s"), ("padding", "p"), ("groups", "groups"), ("dilation", "dil")):
            if given := [word for word in rest if re.fullmatch(rf"{short}\d+", word)]:
                options[key] = int(given[0].removeprefix(short))
        layer = LAYERS[dims[0]].published(
            *map(int, channels.split("->")), int(kernel[1:]), bias="bias" in rest, **options
        )
        load(layer, part(weights, name))
        place = next(output for output in pack["outputs"] if output.split("_")[0] == name)
        found[place] = layer(inputs[f"x{dims[0]}"])
    return gradients(pack, found, inputs)


def trainable_layers(pack, weights, inputs):
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    found = {}
    for name in sorted({key.split(".")[0] for key in weights}):
        state = convert_density(part(weights, name))
        dims = str(state["weight"].ndim - 2)
        layer = LAYERS[dims].published(
            state["weight"].shape[1],
            state["weight"].shape[0],
            pack["build"]["kernel"],
            padding=pack["build"]["padding"],
            bias="bias" in state,
            trainable=True,
        )
        layer.load_state_dict(state)
        found[name] = y = layer(inputs[f"x{dims}"])
        found[f"den_grad_{name}"], found[f"weight_grad_{name}"] = torch.autograd.grad(
            y.square().sum() / 2, (layer.density, layer.weight), retain_graph=True
        )
    return gradients(pack, found, inputs)


class Example(nn.Module):
    """The repository's example in 2d. The pack states no densities; those below follow from its outputs."""

    def __init__(self, first, second):
        super().__init__()
        self.conv1 = WeightedConv2d(1, 8, 3, padding=1, density=first)
        self.conv2 = WeightedConv2d(8, 16, 5, padding=2, density=second)
        self.fc = nn.Linear(4096, 10)

    def forward(self, x):
        x = F.max_pool2d(self.conv1(x).relu(), 2)
        x = F.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc(x.flatten(1))


def example(pack, weights, x):
    model = load(Example((0.75,), (1.5, 0.75)), weights)
    found = {}
    hook(found, "tap.conv1", model.conv1)
    hook(found, "tap.conv2", model.conv2)
    return {"logits": model(x), **found}


def hook(found, name, module):
    module.register_forward_hook(lambda _, __, y: found.__setitem__(name, y))


def run(pack, model, x):
    """The one output that is neither a tap nor a gradient, and the gradients."""
    x.requires_grad_()
    name = next(name for name in pack["outputs"] if not name.startswith(("tap.", "grad.")))
    return gradients(pack, {name: model(x)}, {"x": x})


def vgg(pack, weights, x):
    build = pack["build"]
    words = " ".join(map(str, build["cfg"])).removesuffix(" M").split(" M ")
    stages = [[int(width) for width in stage.split()] for stage in words]
    arch = {"embed_dims": [stage[0] for stage in stages], "depths": [len(stage) for stage in stages]}
    trunk = VGGCifar(arch, density=build["den"], out_indices=(len(stages) - 1,))
    model = ClassificationNetwork(trunk, build["classes"])
    return run(pack, load(model, model.convert_official(weights)), x)


def resnet(pack, weights, x):
    build = pack["build"]
    arch, classes = re.search(r"resnet(\d+)", build["host"])[1], re.search(r"(\d+) classes", build["host"])[1]
    trunk = ResNetCifar(arch, density=build["den"], out_indices=(3,))
    model = load(ClassificationNetwork(trunk, int(classes)), ResNetCifar.convert_official(weights))
    found = {}
    for i, stage in enumerate(trunk.stages):
        hook(found, f"tap.layer{i + 1}", stage[-1])
    return run(pack, model, x) | found


def dncnn(pack, weights, x):
    build = pack["build"]
    model = DnCNN(build["depth"], build["channels"], x.shape[1], density=build["den"])
    return run(pack, load(model, model.convert_official(weights)), x)


def nafnet(pack, weights, x):
    build = pack["build"]
    model = NAFNet(
        build["width"], build["enc"], build["middle"], build["dec"], x.shape[1], density=build["den"]
    )
    load(model, model.convert_official(weights))
    found = {}
    for i, blocks in enumerate(model.encoders):
        hook(found, f"tap.enc{i}", blocks)
    hook(found, "tap.mid", model.middle_blks)
    for i, blocks in enumerate(model.decoders):
        hook(found, f"tap.dec{i}", blocks)
    return run(pack, model, x) | found
