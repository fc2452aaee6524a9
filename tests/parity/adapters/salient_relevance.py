"""Salient relevance: propagation through networks of torchvision's kind and single layers, and the SR map."""

from itertools import product

import torch
from torch import Tensor, nn

from dense.explain.salient_relevance import RelevanceRules, propagate_relevance, salient_relevance, stretch

from ..adapt import Case, Pack
from ..packs import compare


def adapt(pack: Pack) -> Case:
    if "relevance" in pack.inputs:
        return Case(run=lambda inputs: maps(inputs["relevance"]))
    return (layer if "r" in pack.inputs else network)(pack)


def rules(pack: Pack) -> RelevanceRules:
    """Packs of a choice of ours pin the default, others what is published."""
    return RelevanceRules(reference_quirks=not pack.name.startswith("choice"))


def maps(relevance: Tensor) -> dict[str, Tensor]:
    found = salient_relevance(relevance)
    named = {"sr_map": found.map, "mean_map": found.mean_map}
    named |= {f"scale{i}": x for i, x in enumerate(found.scales)}
    return {f"{name}.{i}": x[i, 0] for name, x in named.items() for i in range(len(x))}


# ------------------------------------------------------------------------------------------------ networks


def network(pack: Pack) -> Case:
    keys = {key: own_key(key, pack) for key in pack.shapes}
    shapes = {keys[key]: shape for key, shape in pack.shapes.items()}
    state = {keys[key]: value for key, value in pack.weights.items()}
    alexnet = "alexnet" in pack.words.get("arch", "alexnet").lower()
    model = nn.Module()
    model.features = make_features(shapes, alexnet)
    model.avgpool = nn.AdaptiveAvgPool2d(6 if alexnet else 7)
    model.classifier = make_classifier(shapes)
    model.forward = lambda x: model.classifier(model.avgpool(model.features(x)).flatten(1))
    target = pack.words.get("target")
    asked = {name: own_layer(name, pack) for name in pack.facts if name.startswith("relevance_into.")}

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        found = propagate_relevance(model, inputs["x"], target, rules(pack), list(asked.values()))
        return {
            "logits": found.logits,
            "relevance": found.image,
            "heatmap": 255 * stretch(found.image.abs()),
            **{name: found.layers[layer] for name, layer in asked.items()},
        }

    return Case(model, state, run=run, once=True)


def own_layer(name: str, pack: Pack) -> str:
    return own_key(name.removeprefix("relevance_into.") + ".weight", pack).removesuffix(".weight")


def own_key(key: str, pack: Pack) -> str:
    """The notebook numbers all layers as one list, without dropout; pooling has its reshaping after it."""
    if not key.startswith("layers."):
        return key
    _, number, kind = key.split(".")
    first = min(int(k.split(".")[1]) for k, shape in pack.shapes.items() if len(shape) == 2)
    place = int(number) - first
    if place < 0:
        return f"features.{number}.{kind}" if place < -1 else f"avgpool.{kind}"
    dropout_first = "alexnet" in pack.words.get("arch", "alexnet").lower()
    order = (1, 2, 4, 5, 6) if dropout_first else (0, 1, 3, 4, 6)
    return f"classifier.{order[place]}.{kind}"


def make_features(shapes: dict, alexnet: bool) -> nn.Sequential:
    kernels = {
        int(key.split(".")[1]): shape
        for key, shape in shapes.items()
        if key.startswith("features.") and len(shape) == 4
    }
    window = (3, 2) if alexnet else (2, 2)
    layers: list[nn.Module] = []
    for number, (channels, in_channels, kernel, _) in sorted(kernels.items()):
        if len(layers) < number:
            layers.append(nn.MaxPool2d(*window))
        stride, padding = (4, 2) if kernel == 11 else (1, kernel // 2)
        layers.append(nn.Conv2d(in_channels, channels, kernel, stride, padding))
        if f"features.{number + 1}.running_var" in shapes:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, nn.MaxPool2d(*window))


def make_classifier(shapes: dict) -> nn.Sequential:
    sizes = {int(key.split(".")[1]): shape for key, shape in shapes.items() if len(shape) == 2}
    layers: list[nn.Module] = []
    for number, (out_features, in_features) in sorted(sizes.items()):
        if layers:
            layers.append(nn.ReLU(inplace=True))
        layers += [nn.Dropout() for _ in range(number - len(layers))]
        layers.append(nn.Linear(in_features, out_features))
    return nn.Sequential(*layers)


# -------------------------------------------------------------------------------------------------- layers


def layer(pack: Pack) -> Case:
    """A single layer, whose output's relevance is that of a sum with given weights: R = r y."""
    x, weight = pack.inputs["x"].relu(), pack.weights.get("l.weight")
    out = pack.inputs["r"].shape
    if weight is None:
        choices = [
            nn.MaxPool2d(k, s, p) for k, s, p in product(range(2, 6), range(1, 6), (0, 1, 2)) if 2 * p <= k
        ]
    elif weight.ndim == 2:
        choices = [nn.Linear(*weight.shape[::-1])]
    else:
        channels, in_channels, *kernel = weight.shape
        groups = x.shape[1] // in_channels
        choices = [
            nn.Conv2d(x.shape[1], channels, kernel, s, p, d, groups)
            for s, p, d in product(range(1, 12), range(max(kernel)), (1, 2, 3))
        ]
    state = pack.part("l.")
    chosen = nearest_choice(choices, x, out, state, pack)
    model = nn.ModuleDict({"l": chosen})
    model.forward = lambda x: (
        (chosen(x.view(pack.inputs["x"].shape)) * pack.inputs["r"]).flatten(1).sum(1, True)
    )

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        x = inputs["x"].relu()
        image = x if x.ndim == 4 else x[..., None, None]
        found = propagate_relevance(model, image, 0, rules(pack))
        return {"y": chosen(x), "relevance_in": found.image.view_as(x)}

    return Case(model, pack.weights, run=run, once=True)


def nearest_choice(choices: list[nn.Module], x: Tensor, out: tuple, state: dict, pack: Pack) -> nn.Module:
    """A pack does not state strides and paddings: of those that give the shape, what gives its output."""
    best, least = None, float("inf")
    for choice in choices:
        choice.load_state_dict(state)
        with torch.no_grad():
            try:
                y = choice(x)
            except RuntimeError:  # a kernel larger than the padded map
                continue
        if y.shape == out:
            error = compare({"outputs": {"y": pack.facts["y"]}}, {"y": y.numpy()})["y"]
            if error < least:
                best, least = choice, error
    if best is None:
        raise ValueError(f"no layer of these weights gives {tuple(out)} of {tuple(x.shape)}")
    return best
