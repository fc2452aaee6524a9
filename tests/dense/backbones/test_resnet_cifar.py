"""ResNet for CIFAR: against plain layers of PyTorch, counts, conversion, weighted convolutions."""

import pytest
import torch
from torch import nn

import dense
from dense.backbones import ResNetCifar
from dense.layers import WeightedConv2d
from pointsuite.engine.checkpoint import CheckpointError

from .hosts import DENSITY, noisy, normed, official, shapes

SMALL = {"embed_dims": (4, 6), "depths": (1, 2)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def naive(net, x):
    x, maps = normed(net.downsamples[0], x).relu(), []
    for i, stage in enumerate(net.stages):
        for j, block in enumerate(stage):
            stride = 2 if i and not j else 1
            y = normed(block.conv2, normed(block.conv1, x, stride).relu())
            x = (y + (x if block.shortcut is None else normed(block.shortcut, x, stride))).relu()
        maps.append(x)
    return maps


@pytest.mark.parametrize("density", [None, DENSITY])
def test_against_plain_functions(density):
    net = noisy(ResNetCifar(SMALL, density=density))
    x = torch.randn(2, 3, 9, 12)
    for found, wanted in zip(net(x), naive(net, x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ResNetCifar.archs)
def test_weights_are_as_many_with_a_density(arch):
    with torch.device("meta"):
        net = dense.create_model(f"resnet_cifar_{arch}", num_classes=100, density=DENSITY)
    fewer_classes = 900 * (512 + 1)
    assert sum(p.numel() for p in net.parameters()) == ResNetCifar.num_parameters[arch] - fewer_classes
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert layers and all(isinstance(m, WeightedConv2d) for m in layers)


def test_twins_start_alike():
    """Drawn with the same seed, the weighted network has the weights of the plain one, as published."""
    twins = []
    for density in (None, DENSITY):
        torch.manual_seed(1)
        twins.append(dense.create_model("resnet_cifar_18", num_classes=3, density=density))
    plain, weighted = (net.state_dict() for net in twins)
    assert all(torch.equal(plain[key], weighted[key]) for key in plain)
    conv = next(m for m in twins[1].modules() if isinstance(m, WeightedConv2d) and m.in_channels == 64)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * conv.out_channels)) ** 0.5, rel=0.02)


def test_drop_path():
    rates = [m.drop_path.rate for stage in ResNetCifar(drop_path_rate=0.7).stages for m in stage]
    assert rates == pytest.approx([i / 10 for i in range(8)])


@pytest.mark.parametrize("weighted", [False, True])
def test_convert_official(weighted):
    net = dense.create_model("resnet_cifar_18", num_classes=100, density=DENSITY if weighted else None)
    state = official("choice_resnet18_cifar", weighted)
    assert shapes(ResNetCifar.convert_official(state)) == shapes(net.state_dict())


def test_convert_official_refuses_other_files():
    with pytest.raises(CheckpointError, match=r"stem\.weight"):
        ResNetCifar.convert_official({"stem.weight": torch.zeros(1)})
