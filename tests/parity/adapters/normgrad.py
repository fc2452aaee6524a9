"""NormGrad and its relatives, on networks with torchvision's names."""

import re

import torch
from torch import Tensor, nn

from dense.explain import explain
from dense.explain.maps import normalize_map, resize_map
from dense.explain.metrics import class_sensitivity
from dense.explain.normgrad import extract_aggregate

from ..adapt import Case, Pack


def adapt(pack: Pack) -> Case:
    if "g" in pack.inputs:
        return Case(Identity(), pack.weights, run=lambda inputs: pairs(inputs["x"], inputs["g"], pack))
    model = (resnet if pack.has("layer1.") else vgg)(pack)
    words = dict.fromkeys(WORDS) | pack.words.given(*WORDS)
    named(model, words["arch"] or "", pack)
    if not any(name.rpartition(".")[2] in AGGREGATES for name in pack.facts):
        return Case(
            model, pack.weights, run=lambda inputs: torchray(model, inputs["x"], words, pack), once=True
        )
    # Of 50 layers a gradient has ReLUs whose input is rounding error: an input changed by a millionth changes
    # single places of these maps by 3e-3 of the rms, all others by 1e-5.
    deep = {name: 1e-2 for name in pack.facts if model.depth > 34 and not name.startswith("layer4")}
    run = lambda inputs: grid(model, inputs["x"], words, pack)  # noqa: E731
    return Case(model, pack.weights, run=run, once=True, tolerances=deep)


WORDS = (
    "arch",
    "contrast_layer",
    "ebp_layer",
    "layer",
    "layer_weights",
    "meta_lr",
    "proper",
    "proper_strided",
    "resize",
    "target",
)
AGGREGATES = ("sum", "norm", "filter_norm", "max")


class Identity(nn.Module):
    """A parameter that nothing uses."""

    def __init__(self):
        super().__init__()
        self.feat = nn.Module()
        self.feat.p = nn.Parameter(torch.zeros(()))


def named(model: nn.Module, arch: str, pack: Pack) -> None:
    """The word "arch" must say what the weights show."""
    if found := re.search(r"num_classes=(\d+)", arch):
        pack.words.agree(arch=arch if int(found[1]) == model.num_classes else None)
    if (found := re.search(r"(resnet|vgg)\d+(_bn)?", arch)) and found[0] != model.name:
        raise ValueError(f"word 'arch' is {arch!r}, but the pack shows {model.name}")


# ------------------------------------------------------------------------------------------------- outputs


def pairs(x: Tensor, g: Tensor, pack: Pack) -> dict[str, Tensor]:
    found = {}
    for name in pack.facts:
        kind, extract, aggregate = name.split(".")
        y = extract_aggregate(x, g, extract, aggregate)
        if kind == "resized":
            y = normalize_map(resize_map(y, tuple(pack.facts[name]["shape"][-2:])))
        found[name] = y.reshape(pack.facts[name]["shape"])
    return found


def grid(model: nn.Module, x: Tensor, words: dict, pack: Pack) -> dict[str, Tensor]:
    """ "LAYER.EXTRACT.AGGREGATE"; the combination has the four layers of the published scripts."""
    found = {}
    for name in pack.facts:
        layer, extract, aggregate = name.rsplit(".", 2)
        layers = grid_layers(model, extract) if layer == "combi" else [GRID.get(layer, layer)]
        how = {"extract": extract, "aggregate": aggregate, "reference_quirks": True}
        found[name] = explain(model, x, words["target"], "extract_aggregate", layers, **how)[0, 0]
    return found


GRID = {
    "layer2": "layer2.0",
    "layer3": "layer3.0",
    "layer4": "layer4.0",
    "end": "layer4",
}  # as their scripts call them


def grid_layers(model: nn.Module, extract: str) -> list[str]:
    if model.name.startswith("vgg"):
        return [name for name, m in model.named_modules() if isinstance(m, nn.MaxPool2d)][1:]
    layers = ["layer2.0", "layer3.0", "layer4.0", "layer4"]
    return layers[:3] if extract == "bias" else layers


def torchray(model: nn.Module, x: Tensor, words: dict, pack: Pack) -> dict[str, Tensor]:
    """Methods by the names of their outputs, with what comes after a dot."""
    layer, target = words["layer"] or "", words["target"]
    resize = bool(words["resize"])
    found = {}
    for name, fact in pack.facts.items():
        if name == "probabilities":
            found[name] = model(x).softmax(1)
            continue
        if name.startswith("sensitivity."):
            found[name] = class_sensitivity(model, x, name.partition(".")[2], layer)
            continue
        method, _, suffix = name.partition(".")
        own, how = layer, {"resize": resize}
        if method == "norm_grad_proper":
            own = words["proper_strided" if suffix == "strided" else "proper"]
        elif method.endswith("excitation_backprop"):
            own = words["ebp_layer"] or layer
            if method.startswith("contrastive"):
                how["contrast_layer"] = words["contrast_layer"]
        elif method in ("guided_backprop", "deconvnet"):
            own = ""
        for word in suffix.split("."):
            if word in ("", "layer", "strided"):
                continue
            elif word == "input":
                own = ""
            elif word == "smooth":
                how["smooth"] = 0.02
            elif word == "resized":
                how["resize"] = True
            elif word == "resized_wh":
                how["resize"] = tuple(fact["shape"][:-3:-1])
            elif combined := re.fullmatch(r"(weighted|linear|uniform)_(sum|product)", word):
                own, how["combine"] = words["layer_weights"], combined[2]
                if combined[1] != "weighted":
                    own, how["weights"] = list(own), combined[1]
            elif word in ("meta", "meta_negated"):
                how |= {"meta_lr": words["meta_lr"], "negate_loss": word == "meta_negated"}
            elif word == "pointing":
                how["start"] = "pointing"
            else:
                raise ValueError(f"output {name!r} has an unknown part {word!r}")
        found[name] = explain(model, x, target, method, own, **how)
    return found


# ------------------------------------------------------------------------------------------------ networks


class ResNet(nn.Module):
    """Stem, four stages of blocks, mean, linear layer, with torchvision's names."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        super().__init__()
        width, channels = shapes["conv1.weight"][:2]
        self.conv1 = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage in range(1, 5):
            blocks, start = [], f"layer{stage}."
            while f"{start}{len(blocks)}.conv1.weight" in shapes:
                own = f"{start}{len(blocks)}."
                part = {k.removeprefix(own): v for k, v in shapes.items() if k.startswith(own)}
                blocks.append(Block(part, 2 if stage > 1 and not blocks else 1))
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(*shapes["fc.weight"][::-1])

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


class Block(nn.Module):
    def __init__(self, shapes: dict[str, tuple[int, ...]], stride: int):
        super().__init__()
        self.count = sum(bool(re.fullmatch(r"conv\d\.weight", key)) for key in shapes)
        for i in range(1, self.count + 1):
            out, width, size, _ = shapes[f"conv{i}.weight"]
            in_channels = shapes[f"conv{i - 1}.weight"][0] if i > 1 else width
            own = stride if size == 3 and i == (1 if self.count == 2 else 2) else 1
            groups = in_channels // width
            conv = nn.Conv2d(in_channels, out, size, own, size // 2, groups=groups, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", nn.BatchNorm2d(out))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if "downsample.0.weight" in shapes:
            out, width = shapes["downsample.0.weight"][:2]
            conv = nn.Conv2d(width, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.count:
                y = self.relu(y)
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def resnet(pack: Pack) -> nn.Module:
    model = ResNet(pack.shapes)
    depths = pack.depths("layer{}.", 1)
    convs = model.layer1[0].count
    model.depth = convs * sum(depths) + 2
    model.name, model.num_classes = f"resnet{model.depth}", model.fc.out_features
    return model


class VGG(nn.Module):
    """3 x 3 convolutions with or without norms, maxima, three linear layers, with torchvision's names."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        super().__init__()
        own = {k: v for k, v in shapes.items() if k.startswith("features.") and k.endswith(".weight")}
        convs = {int(key.split(".")[1]): shape for key, shape in own.items() if len(shape) == 4}
        layers: list[nn.Module] = []
        norms = len(own) > len(convs)
        for number, (out, width, size, _) in sorted(convs.items()):
            if number > len(layers):
                layers.append(nn.MaxPool2d(2))
            layers.append(nn.Conv2d(width, out, size, padding=size // 2))
            layers += [nn.BatchNorm2d(out)] * norms + [nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers, nn.MaxPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        first, second, last = (nn.Linear(*shapes[f"classifier.{i}.weight"][::-1]) for i in (0, 3, 6))
        relu = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.classifier = nn.Sequential(first, relu[0], nn.Dropout(), second, relu[1], nn.Dropout(), last)
        self.depth = len(convs) + 3
        self.name = f"vgg{self.depth}{'_bn' * norms}"
        self.num_classes = last.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def vgg(pack: Pack) -> nn.Module:
    return VGG(pack.shapes)
