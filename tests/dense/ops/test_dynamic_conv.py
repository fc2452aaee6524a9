"""Convolutions with kernels of each sample: against plain ones, both paths, gradients, bad input."""

import pytest
import torch
from torch.nn import functional as F

from dense.ops import dynamic_conv, dynamic_depthwise_conv


@pytest.fixture(params=[False, True], ids=["plain", "traced"], autouse=True)
def path(request, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(dynamic_conv, "is_traced", lambda: request.param)


@pytest.mark.parametrize("size", [(3, 3), (1, 5)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_a_convolution_of_each_sample(size, with_bias):
    x, kernels = torch.randn(3, 4, 6, 5).double(), torch.randn(3, 5, *size).double()
    bias = torch.randn(5).double() if with_bias else None
    padding = [side // 2 for side in size]
    wanted = [
        F.conv2d(one[None].permute(0, 3, 1, 2), weight[:, None], bias, padding=padding, groups=5)
        for one, weight in zip(x, kernels, strict=True)
    ]
    found = dynamic_depthwise_conv(x, kernels, bias)
    torch.testing.assert_close(found, torch.cat(wanted).permute(0, 2, 3, 1))


def test_centre_tap_adds_the_values():
    kernels = torch.zeros(2, 3, 3, 3)
    kernels[:, :, 1, 1] = 1
    x = torch.randn(2, 4, 5, 3)
    torch.testing.assert_close(dynamic_depthwise_conv(x, kernels), x)


def test_views_keep_channels_last():
    x = torch.randn(2, 4, 5, 9)[..., 3:6]
    assert dynamic_depthwise_conv(x, torch.randn(2, 3, 3, 3)).is_contiguous()


def test_gradients():
    inputs = [
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 2, 2), (2, 2, 3, 3), (2,))
    ]
    assert torch.autograd.gradcheck(dynamic_depthwise_conv, inputs)


def test_bad_input():
    with pytest.raises(ValueError, match=r"found \(2, 4, 4, 3\) and \(1, 3, 3, 3\)"):
        dynamic_depthwise_conv(torch.zeros(2, 4, 4, 3), torch.zeros(1, 3, 3, 3))
    with pytest.raises(ValueError, match="odd sides, found 3 x 2"):
        dynamic_depthwise_conv(torch.zeros(1, 4, 4, 3), torch.zeros(1, 3, 3, 2))
