"""Convolutions with kernels of samples or positions: against plain ones, both paths, gradients, bad input."""

import pytest
import torch
from torch.nn import functional as F

from dense.ops import dynamic_conv, dynamic_depthwise_conv, involution


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


# ----------------------------------------------------------------------------------- kernels of positions


def naive_involution(x, kernels):
    """Channel by channel and tap by tap."""
    y, (rows, columns, groups) = torch.zeros_like(x), kernels.shape[3:]
    height, width = x.shape[1:3]
    for c in range(x.shape[3]):
        for i in range(height):
            for j in range(width):
                for u in range(rows):
                    for v in range(columns):
                        a, b = i + u - rows // 2, j + v - columns // 2
                        if 0 <= a < height and 0 <= b < width:
                            y[:, i, j, c] += kernels[:, i, j, u, v, c % groups] * x[:, a, b, c]
    return y


@pytest.mark.parametrize(("size", "groups"), [((3, 3), 2), ((1, 5), 6), ((1, 1), 1)])
@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_involution_against_the_formula(size, groups, backend):
    x, kernels = torch.randn(2, 3, 4, 6).double(), torch.randn(2, 3, 4, *size, groups).double()
    found = involution(x, kernels, backend=backend)
    torch.testing.assert_close(found, naive_involution(x, kernels))
    view = torch.randn(2, 4, 9, 3).double()[:, :, 1:7].permute(0, 3, 1, 2)
    torch.testing.assert_close(involution(view, kernels, backend=backend), naive_involution(view, kernels))


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_involution_of_one_kernel_for_all_positions_is_a_depthwise_convolution(backend):
    x, weight = torch.randn(2, 5, 4, 6), torch.randn(6, 1, 3, 3)
    kernels = weight[:, 0].permute(1, 2, 0).expand(2, 5, 4, 3, 3, 6)
    wanted = F.conv2d(x.permute(0, 3, 1, 2), weight, padding=1, groups=6).permute(0, 2, 3, 1)
    torch.testing.assert_close(involution(x, kernels, backend=backend), wanted)


def test_involution_of_centre_taps_is_the_identity():
    kernels = torch.zeros(2, 4, 5, 3, 3, 2)
    kernels[:, :, :, 1, 1] = 1
    x = torch.randn(2, 4, 5, 8)
    torch.testing.assert_close(involution(x, kernels), x)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_gradients_of_involution(backend):
    x, kernels = torch.randn(2, 3, 2, 4), torch.randn(2, 3, 2, 3, 1, 2)
    inputs = [t.double().requires_grad_() for t in (x, kernels)]
    assert torch.autograd.gradcheck(lambda *tensors: involution(*tensors, backend=backend), inputs)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_involution_sums_in_float32(backend, dtype):
    x, kernels = torch.rand(1, 3, 3, 4).to(dtype), torch.rand(1, 3, 3, 3, 3, 2).to(dtype)
    found = involution(x, kernels, backend=backend)
    assert found.dtype == dtype
    wanted = involution(x.float(), kernels.float())
    torch.testing.assert_close(found, wanted.to(dtype), rtol=torch.finfo(dtype).eps, atol=0)


def test_involution_of_no_samples():
    assert involution(torch.zeros(0, 3, 4, 6), torch.zeros(0, 3, 4, 3, 3, 2)).shape == (0, 3, 4, 6)


@pytest.mark.parametrize(
    ("x", "kernels", "message"),
    [
        (
            (1, 4, 4, 6),
            (1, 4, 4, 3, 3, 4),
            r"where G divides C, found \(1, 4, 4, 6\) and \(1, 4, 4, 3, 3, 4\)",
        ),
        ((1, 4, 4, 6), (1, 4, 3, 3, 3, 2), r"found \(1, 4, 4, 6\) and \(1, 4, 3, 3, 3, 2\)"),
        ((1, 4, 4, 6), (1, 4, 4, 3, 2, 2), "odd sides, found 3 x 2"),
    ],
)
def test_bad_involution(x, kernels, message):
    with pytest.raises(ValueError, match=message):
        involution(torch.zeros(x), torch.zeros(kernels))


def test_bad_dtypes_of_involution():
    with pytest.raises(TypeError, match=r"one dtype, found torch.float32 and torch.float64"):
        involution(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 1, 1, 2).double())
