"""Branches of convolutions: one convolution at evaluation, and for good where it is asked for."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.layers import (
    ConvNorm,
    ConvNormReLU,
    ReparameterizedConv,
    dilate_kernel,
    identity_kernel,
    pad_kernel,
    switch_to_deploy,
)


class Branches(ReparameterizedConv):
    """x + norm(5x5) + norm(3x3), depthwise."""

    def __init__(self, channels):
        super().__init__(padding=2, groups=channels)
        self.large = ConvNorm(channels, channels, 5, padding=2, groups=channels)
        self.small = ConvNorm(channels, channels, 3, padding=1, groups=channels)

    def forward_branches(self, x):
        return x + self.large(x) + self.small(x)

    def merge(self):
        large, large_bias = self.large.merge()
        small, small_bias = self.small.merge()
        return large + pad_kernel(small, 5) + identity_kernel(large), large_bias + small_bias


def fill(module):
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    return module


@pytest.mark.parametrize("activation", [None, "relu"])
def test_evaluation_is_one_convolution_of_the_branches(activation):
    module = fill(Branches(3)).eval()
    x = torch.randn(2, 3, 7, 6)
    wanted = module.forward_branches(x)
    module.forward_branches = None  # evaluation does not call it
    torch.testing.assert_close(module(x, activation), wanted if activation is None else wanted.relu())


def test_it_follows_its_parameters():
    module = fill(Branches(3)).eval()
    x = torch.randn(2, 3, 7, 6)
    module(x)
    with torch.no_grad():
        module.small.norm.weight += 1
        module.large.conv.weight *= 2
    torch.testing.assert_close(module(x), module.forward_branches(x))


def test_training_takes_the_branches():
    module = fill(Branches(3)).train()
    before = module.small.norm.running_mean.clone()
    module(torch.randn(2, 3, 7, 6))
    assert not torch.equal(before, module.small.norm.running_mean)


def test_gradients_pass_through_the_merged_convolution():
    module = fill(Branches(2)).eval().double()
    x = torch.randn(2, 2, 5, 4).double().requires_grad_()
    found = torch.autograd.grad(module(x).sin().sum(), (x, *module.parameters()))
    wanted = torch.autograd.grad(module.forward_branches(x).sin().sum(), (x, *module.parameters()))
    torch.testing.assert_close(found, wanted)


def test_norms_that_a_run_exchanged_are_kept():
    module = fill(Branches(4)).eval()
    module.small.norm = nn.GroupNorm(2, 4)
    x = torch.randn(2, 4, 7, 6)
    assert torch.equal(module(x), module.forward_branches(x))
    assert switch_to_deploy(nn.Sequential(module))[0] is module


def test_switch_leaves_one_convolution_each():
    network = fill(nn.Sequential(ConvNormReLU(2, 3), nn.Sequential(Branches(3)), ConvNorm(3, 4, 1))).eval()
    x = torch.randn(2, 2, 7, 6)
    wanted = network(x)
    assert switch_to_deploy(network) is network
    assert set(network.state_dict()) == {
        f"{i}.{key}" for i in ("0", "1.0", "2") for key in ("weight", "bias")
    }
    assert network[1][0].groups == 3 and not hasattr(network[1][0], "large")
    torch.testing.assert_close(network(x), wanted)
    torch.testing.assert_close(
        network[2](x.new_ones(1, 3, 2, 2), "relu").min(), network[2](x.new_ones(1, 3, 2, 2)).relu().min()
    )


def test_a_padded_or_dilated_kernel_computes_the_same():
    x, weight = torch.randn(1, 2, 9, 9), torch.randn(2, 1, 3, 3)
    wanted = F.conv2d(x, weight, padding=1, groups=2)
    torch.testing.assert_close(F.conv2d(x, pad_kernel(weight, 7), padding=3, groups=2), wanted)
    wanted = F.conv2d(x, weight, padding=3, dilation=3, groups=2)
    torch.testing.assert_close(F.conv2d(x, dilate_kernel(weight, 3), padding=3, groups=2), wanted)


@pytest.mark.parametrize("shape", [(4, 1, 3, 3), (4, 4, 1, 1), (6, 2, 5, 5)])
def test_identity_kernels_keep_their_input(shape):
    x = torch.randn(1, shape[0], 5, 6)
    kernel = identity_kernel(torch.empty(shape))
    assert torch.equal(F.conv2d(x, kernel, padding=shape[-1] // 2, groups=shape[0] // shape[1]), x)


@pytest.mark.parametrize("size", [1, 4])
def test_a_kernel_without_a_middle_is_refused(size):
    with pytest.raises(ValueError, match="a kernel of 3 has no place in the middle"):
        pad_kernel(torch.zeros(1, 1, 3, 3), size)


def test_an_even_kernel_is_no_identity():
    with pytest.raises(ValueError, match="no identity has kernels"):
        identity_kernel(torch.zeros(2, 1, 4, 4))
