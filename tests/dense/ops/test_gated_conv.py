import pytest
import torch
from torch.nn import functional as F

from dense.ops import gated_depthwise_conv


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def arguments(height, width, channels, dtype=torch.float32):
    maps = torch.randn(2, 2, height, width, channels, dtype=dtype)
    return (*maps, torch.randn(channels, 1, 3, 3, dtype=dtype), torch.randn(channels, dtype=dtype))


def plain(x, gated, weight, bias):
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=x.shape[3])
    return F.gelu(y).permute(0, 2, 3, 1) * gated


@pytest.mark.parametrize("shape", [(5, 7, 19), (1, 1, 3), (2, 6, 8), (6, 1, 8), (3, 3, 33)])
def test_kernel_and_portable(shape):
    given = arguments(*shape)
    wanted = plain(*(t.double() for t in given)).float()
    for backend in ("torch", "numba", "auto"):
        with torch.inference_mode():
            found = gated_depthwise_conv(*given, backend=backend)
        torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-6)
        assert found.is_contiguous()


def test_gelu_over_its_range():
    x = torch.linspace(-30, 30, 60_001).view(1, 1, 1, -1).repeat(1, 3, 3, 1)
    count = x.shape[-1]
    weight = torch.zeros(count, 1, 3, 3)
    weight[:, :, 1, 1] = 1
    found = gated_depthwise_conv(x, torch.ones_like(x), weight, torch.zeros(count), backend="numba")
    wanted = F.gelu(x.double())
    assert ((found - wanted).abs() / (1 + wanted.abs())).max() < 1e-6
    assert (found[x < -6] == 0).all()
    odd = torch.full((1, 3, 3, 2), torch.nan)
    found = gated_depthwise_conv(odd, odd, weight[:2], torch.zeros(2), backend="numba")
    assert found.isnan().all()


def test_views():
    x, gated, weight, bias = arguments(4, 5, 6)
    x, gated = x.transpose(1, 2), gated.transpose(1, 2)
    found = gated_depthwise_conv(x, gated, weight, bias, backend="numba")
    torch.testing.assert_close(found, plain(x, gated, weight, bias))


def test_gradients():
    given = [t.requires_grad_() for t in arguments(3, 4, 2, torch.float64)]
    assert torch.autograd.gradcheck(gated_depthwise_conv, given)


def test_bfloat16():
    given = [t.bfloat16() for t in arguments(4, 4, 8)]
    found = gated_depthwise_conv(*given)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), plain(*(t.float() for t in given)), rtol=0.05, atol=0.05)


def test_bad_input():
    x, gated, weight, bias = arguments(4, 4, 8)
    with pytest.raises(ValueError, match=r"found \(2, 4, 4, 8\), \(2, 4, 4, 7\), \(8, 1, 3, 3\), \(8,\)"):
        gated_depthwise_conv(x, gated[..., 1:], weight, bias)
    with pytest.raises(ValueError, match="must be .*, found 'triton'"):
        gated_depthwise_conv(x, gated, weight, bias, backend="triton")
    with pytest.raises(ValueError, match="without gradient, found a gradient"):
        gated_depthwise_conv(x.requires_grad_(), gated, weight, bias, backend="numba")
