"""VGG and ResNet for CIFAR: against plain layers of PyTorch, counts, conversion, weighted convolutions."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dense
from dense.backbones import ResNetCifar, VGGCifar
from dense.layers import WeightedConv2d
from dense.layers.weighted_conv import density_parameters
from dense.registry import MODELS
from pointsuite.engine.checkpoint import CheckpointError

PACKS = Path(__file__).parents[2] / "parity" / "packs"
PARAMETERS = {  # with 100 classes
    "vgg_cifar_11": 9_277_284,
    "vgg_cifar_13": 9_462_180,
    "vgg_cifar_16": 14_774_436,
    "vgg_cifar_19": 20_086_692,
    "resnet_cifar_18": 11_220_132,
    "resnet_cifar_34": 21_328_292,
}
VGG = {"embed_dims": (4, 6), "depths": (1, 2)}
RESNET = {"embed_dims": (4, 6), "depths": (1, 2)}
DENSITY = {3: [0.7]}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def noisy(module):
    """Weights and statistics that all count, evaluating."""
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point():
            with torch.no_grad():
                value.uniform_(0.5, 1.5) if name.endswith("var") else value.normal_(0, 0.5)
    return module.eval()


def normed(layer, x, stride=1):
    """A ConvNorm as plain functions, its density included."""
    conv, norm = layer.conv, layer.norm
    weight = conv.weight
    if isinstance(conv, WeightedConv2d):
        a = torch.cat((conv.density, torch.ones(1), conv.density))
        weight = weight * torch.outer(a, a)
    y = F.conv2d(x, weight, conv.bias, stride, weight.shape[-1] // 2)
    return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def naive_vgg(net, x):
    maps = []
    for i, stage in enumerate(net.stages):
        x = F.max_pool2d(x, 2) if i else x
        for block in stage:
            x = normed(block, x).relu()
        maps.append(x)
    return maps


def naive_resnet(net, x):
    x, maps = normed(net.downsamples[0], x).relu(), []
    for i, stage in enumerate(net.stages):
        for j, block in enumerate(stage):
            stride = 2 if i and not j else 1
            y = normed(block.conv2, normed(block.conv1, x, stride).relu())
            x = (y + (x if block.shortcut is None else normed(block.shortcut, x, stride))).relu()
        maps.append(x)
    return maps


@pytest.mark.parametrize("density", [None, DENSITY])
@pytest.mark.parametrize(
    ("cls", "naive", "arch"), [(VGGCifar, naive_vgg, VGG), (ResNetCifar, naive_resnet, RESNET)]
)
def test_against_plain_functions(cls, naive, arch, density):
    net = noisy(cls(arch, density=density))
    x = torch.randn(2, 3, 9, 12)
    for found, wanted in zip(net(x), naive(net, x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("density", [None, DENSITY])
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name, density):
    with torch.device("meta"):
        net = dense.create_model(name, num_classes=100, density=density)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert all(isinstance(m, WeightedConv2d) == (density is not None) for m in layers)


def test_every_variant_has_a_count():
    assert {*dense.list_models("vgg_cifar_*"), *dense.list_models("resnet_cifar_*")} == set(PARAMETERS)


def test_logits():
    net = noisy(dense.create_model("vgg_cifar_11", num_classes=7, in_channels=1))
    x = torch.randn(2, 1, 37, 32)
    pooled = F.max_pool2d(net.backbone(x)[-1], 2).mean((2, 3))
    torch.testing.assert_close(net(x), net.head.fc(pooled))
    assert net(x).shape == (2, 7)


@pytest.mark.parametrize("name", ["vgg_cifar_11", "resnet_cifar_18"])
def test_twins_start_alike(name):
    """Drawn with the same seed, the weighted network has the weights of the plain one, as published."""
    twins = []
    for density in (None, DENSITY):
        torch.manual_seed(1)
        twins.append(dense.create_model(name, num_classes=3, density=density))
    plain, weighted = (net.state_dict() for net in twins)
    assert all(torch.equal(plain[key], weighted[key]) for key in plain)
    conv = next(m for m in twins[1].modules() if isinstance(m, WeightedConv2d) and m.in_channels == 64)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * conv.out_channels)) ** 0.5, rel=0.02)


def test_trainable_density():
    net = VGGCifar(VGG, density=DENSITY, trainable_density=True, frozen_stages=1)
    densities = density_parameters(net)
    assert [d.requires_grad for d in densities] == [False, True, True]
    net(torch.randn(2, 3, 8, 8))[-1].square().sum().backward()
    assert densities[0].grad is None and all(d.grad.abs().max() > 0 for d in densities[1:])


def test_drop_path():
    rates = [m.drop_path.rate for stage in ResNetCifar(drop_path_rate=0.7).stages for m in stage]
    assert rates == pytest.approx([i / 10 for i in range(8)])
    with pytest.raises(ValueError, match=r"0\.1"):
        VGGCifar(drop_path_rate=0.1)


def test_too_small():
    with pytest.raises(ValueError, match=r"at least 16 x 16, found \(1, 3, 15, 40\)"):
        VGGCifar()(torch.zeros(1, 3, 15, 40))
    assert VGGCifar()(torch.zeros(2, 3, 16, 17))[-1].shape == (2, 512, 1, 1)
    with pytest.raises(ValueError, match=r"2 x 2 to be pooled, found \(1, 1\)"):
        dense.create_model("vgg_cifar_11")(torch.zeros(2, 3, 16, 16))


def official(name):
    pack = json.loads((PACKS / f"{name}.json").read_text())
    return {key: torch.randn(shape) for key, shape, _ in pack["state_dict"]}


def shapes(state):
    return {key: value.shape for key, value in state.items()}


@pytest.mark.parametrize("weighted", [False, True])
def test_convert_official(weighted):
    vgg_arch = {"embed_dims": (8, 16, 24), "depths": (1, 1, 2)}
    nets = {
        "vgg_cifar/choice_vgg_small": dense.create_model(
            "vgg_cifar_16", num_classes=20, density=DENSITY if weighted else None
        ),
        "resnet_cifar/choice_resnet18_cifar": dense.create_model(
            "resnet_cifar_18", num_classes=100, density=DENSITY if weighted else None
        ),
    }
    trunk = MODELS.build(
        {"type": "dense.VGGCifar", "arch": vgg_arch, "density": {"3": [0.7]} if weighted else None}
    )
    nets["vgg_cifar/choice_vgg_small"].backbone = trunk
    nets["vgg_cifar/choice_vgg_small"].head.fc = nn.Linear(24, 20)
    for name, net in nets.items():
        state = official(name)
        if not weighted:
            state = {k: v for k, v in state.items() if not k.endswith(("alfa", "Phi"))}
        assert shapes(net.convert_official(state)) == shapes(net.state_dict()), name


@pytest.mark.parametrize("cls", [VGGCifar, ResNetCifar])
def test_convert_official_refuses_other_files(cls):
    with pytest.raises(CheckpointError, match=r"stem\.weight"):
        cls.convert_official({"stem.weight": torch.zeros(1)})
