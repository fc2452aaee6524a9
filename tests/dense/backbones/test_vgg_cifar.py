"""VGG for CIFAR: against plain layers of PyTorch, counts, conversion, weighted convolutions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dense
from dense.backbones import VGGCifar
from dense.layers import WeightedConv2d
from dense.layers.weighted_conv import density_parameters
from dense.registry import MODELS
from pointsuite.engine.checkpoint import CheckpointError

from .hosts import DENSITY, noisy, normed, official, shapes

SMALL = {"embed_dims": (4, 6), "depths": (1, 2)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def naive(net, x):
    maps = []
    for i, stage in enumerate(net.stages):
        x = F.max_pool2d(x, 2) if i else x
        for block in stage:
            x = normed(block, x).relu()
        maps.append(x)
    return maps


@pytest.mark.parametrize("density", [None, DENSITY])
def test_against_plain_functions(density):
    net = noisy(VGGCifar(SMALL, density=density))
    x = torch.randn(2, 3, 9, 12)
    for found, wanted in zip(net(x), naive(net, x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", VGGCifar.archs)
def test_weights_are_as_many_with_a_density(arch):
    with torch.device("meta"):
        net = dense.create_model(f"vgg_cifar_{arch}", num_classes=100, density=DENSITY)
    fewer_classes = 900 * (512 + 1)
    assert sum(p.numel() for p in net.parameters()) == VGGCifar.num_parameters[arch] - fewer_classes
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert layers and all(isinstance(m, WeightedConv2d) for m in layers)


def test_logits():
    net = noisy(dense.create_model("vgg_cifar_11", num_classes=7, in_channels=1))
    x = torch.randn(2, 1, 37, 32)
    pooled = F.max_pool2d(net.backbone(x)[-1], 2).mean((2, 3))
    torch.testing.assert_close(net(x), net.head.fc(pooled))
    assert net(x).shape == (2, 7)


def test_twins_start_alike():
    """Drawn with the same seed, the weighted network has the weights of the plain one, as published."""
    twins = []
    for density in (None, DENSITY):
        torch.manual_seed(1)
        twins.append(dense.create_model("vgg_cifar_11", num_classes=3, density=density))
    plain, weighted = (net.state_dict() for net in twins)
    assert all(torch.equal(plain[key], weighted[key]) for key in plain)
    conv = next(m for m in twins[1].modules() if isinstance(m, WeightedConv2d) and m.in_channels == 64)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * conv.out_channels)) ** 0.5, rel=0.02)


def test_trainable_density():
    net = VGGCifar(SMALL, density=DENSITY, trainable_density=True, frozen_stages=1)
    densities = density_parameters(net)
    assert [d.requires_grad for d in densities] == [False, True, True]
    net(torch.randn(2, 3, 8, 8))[-1].square().sum().backward()
    assert densities[0].grad is None and all(d.grad.abs().max() > 0 for d in densities[1:])


def test_no_branches_to_drop():
    with pytest.raises(ValueError, match=r"0\.1"):
        VGGCifar(drop_path_rate=0.1)


def test_too_small():
    for call in (VGGCifar(), VGGCifar().forward_features):
        with pytest.raises(ValueError, match="at least 16 x 16, found 15 x 40"):
            call(torch.zeros(1, 3, 15, 40))
    assert VGGCifar()(torch.zeros(2, 3, 16, 17))[-1].shape == (2, 512, 1, 1)
    assert VGGCifar(out_indices=(1,))(torch.zeros(2, 3, 2, 2))[-1].shape == (2, 128, 1, 1)
    with pytest.raises(ValueError, match=r"2 x 2 to be pooled, found \(1, 1\)"):
        dense.create_model("vgg_cifar_11")(torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize("weighted", [False, True])
def test_convert_official(weighted):
    arch = {"embed_dims": (8, 16, 24), "depths": (1, 1, 2)}
    density = {"3": [0.7]} if weighted else None
    trunk = MODELS.build({"type": "dense.VGGCifar", "arch": arch, "density": density})
    net = dense.backbones.ClassificationNetwork(trunk, 20)
    assert shapes(VGGCifar.convert_official(official("choice_vgg_small", weighted))) == shapes(
        net.state_dict()
    )


def test_convert_official_refuses_other_files():
    with pytest.raises(CheckpointError, match=r"stem\.weight"):
        VGGCifar.convert_official({"stem.weight": torch.zeros(1)})
