"""ConvNorm: evaluation folds the norm; 1x1 convolutions of channels-last maps are linear layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.layers import ConvNorm

LAYOUTS = (torch.contiguous_format, torch.channels_last)
KINDS = {
    "pointwise": {"kernel_size": 1},
    "pointwise with bias": {"kernel_size": 1, "bias": True},
    "pointwise of stride 2": {"kernel_size": 1, "stride": 2},
    "pointwise with padding": {"kernel_size": 1, "padding": 1},
    "pointwise of groups": {"kernel_size": 1, "groups": 2},
    "3x3": {"kernel_size": 3, "padding": 1},
}


def layer(kind):
    torch.manual_seed(0)
    module = ConvNorm(6, 8, **KINDS[kind])
    nn.init.normal_(module.norm.weight), nn.init.normal_(module.norm.bias)
    module.norm.running_mean.normal_(), module.norm.running_var.uniform_(0.5, 2)
    return module


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_equals_the_two_layers(kind, layout, activation):
    module = layer(kind).eval()
    x = torch.randn(2, 6, 5, 7).to(memory_format=layout)
    wanted = module.norm(module.conv(x))
    wanted = wanted if activation is None else getattr(F, activation)(wanted)
    with torch.no_grad():
        torch.testing.assert_close(module(x, activation), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module(x, activation), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_evaluation_passes_gradients(layout):
    module = layer("pointwise").eval().double()
    x = torch.randn(2, 6, 3, 2).double().to(memory_format=layout).requires_grad_()
    found = torch.autograd.grad(module(x).sin().sum(), (x, *module.parameters()))
    wanted = torch.autograd.grad(module.norm(module.conv(x)).sin().sum(), (x, *module.parameters()))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", ["pointwise", "3x3"])
def test_training_updates_the_statistics(kind):
    module = layer(kind).train()
    before = module.norm.running_mean.clone()
    x = torch.randn(4, 6, 5, 5)
    y = module(x, "relu")
    assert not torch.equal(before, module.norm.running_mean)
    wanted = F.relu(F.batch_norm(module.conv(x), None, None, module.norm.weight, module.norm.bias, True))
    torch.testing.assert_close(y, wanted)


def test_other_norms_are_called():
    module = layer("pointwise").eval()
    module.norm = nn.GroupNorm(2, 8)
    x = torch.randn(2, 6, 5, 7)
    assert torch.equal(module(x), module.norm(module.conv(x)))
