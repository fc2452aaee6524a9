"""Coordinate attention and its mix with squeeze and excitation: limits, symmetry, gates, plugins."""

import pytest
import torch

from dense.backbones import ResNetCifar
from dense.layers import BalancedAttention, CoordinateAttention
from tests.dense.noise import noisy

X = torch.randn(2, 16, 5, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def balanced():
    return noisy(BalancedAttention(16, se_ratio=4)).float()


def test_alpha_chooses_between_the_two(balanced):
    assert BalancedAttention(16).share.item() == pytest.approx(0.6225, abs=1e-4)
    for alpha, part in ((40.0, balanced.coordinate), (-40.0, balanced.se)):
        torch.nn.init.constant_(balanced.alpha, alpha)
        torch.testing.assert_close(balanced(X), part(X))


def test_one_product_is_the_sum_of_both(balanced):
    share = balanced.share
    wanted = share * balanced.coordinate(X) + (1 - share) * balanced.se(X)
    for x in (X, X.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(balanced(x), wanted)
        with torch.no_grad():  # by the kernel
            torch.testing.assert_close(balanced(x), wanted.detach())
    gate = balanced(X) / X
    assert (gate > 0).all() and (gate < 1).all()


def test_equal_convolutions_turn_with_the_map():
    layer = noisy(CoordinateAttention(16)).float()
    assert not torch.allclose(layer(X.mT), layer(X).mT, atol=1e-3)
    layer.columns.load_state_dict(layer.rows.state_dict())
    torch.testing.assert_close(layer(X.mT), layer(X).mT)


def test_statistics_are_of_both_strips():
    """The norm sees the H + W means of all images."""
    layer = CoordinateAttention(16)
    strips = torch.cat((X.mean(3), X.mean(2)), 2)
    hidden = layer.squeeze.conv(strips[..., None])
    layer.squeeze.norm.momentum = 1.0
    layer(X)
    torch.testing.assert_close(layer.squeeze.norm.running_mean, hidden.mean((0, 2, 3)))


def test_plugins_of_a_resnet():
    names = ("CoordinateAttention", "BalancedAttention", "CBAM")
    plugins = [{"cfg": {"type": f"dense.{name}"}, "position": "after_conv2"} for name in names]
    net = ResNetCifar({"embed_dims": (16, 32), "depths": (1, 1)}, plugins=plugins)
    block = net.stages[0][0]
    assert {"ca", "balanced", "cbam"} <= {name for name, _ in block.named_children()}
    assert [y.shape[1] for y in net(torch.randn(2, 3, 16, 16))] == [16, 32]
