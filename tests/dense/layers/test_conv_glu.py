import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.layers import ConvGLU, RMSNorm


@pytest.mark.parametrize("conv", [True, False])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conv_glu(conv, norm, dtype):
    torch.manual_seed(0)
    glu = ConvGLU(6, 10, conv=conv, norm=norm).to(dtype)
    for parameter in glu.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 4, 5, 6, dtype=dtype)
    a, g = glu.fc1(x).chunk(2, -1)
    assert a.shape[-1] == 6  # two thirds of 10
    if conv:
        a = F.conv2d(a.permute(0, 3, 1, 2), glu.dwconv.weight, glu.dwconv.bias, padding=1, groups=6)
        a = a.permute(0, 2, 3, 1)
    y = F.gelu(a) * g
    if norm:
        y = y * (y.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * glu.norm.weight
    wanted = glu.fc2(y)
    torch.testing.assert_close(glu(x), wanted)
    with torch.inference_mode():
        torch.testing.assert_close(glu(x), wanted.detach())


@pytest.mark.parametrize("bias", [True, False])
def test_rms_norm_before_a_layer(bias):
    norm, layer = RMSNorm(5), nn.Linear(5, 3, bias=bias)
    nn.init.normal_(norm.weight)
    for x in (torch.randn(2, 4, 5), 1e-4 * torch.randn(7, 5)):
        with torch.inference_mode():
            torch.testing.assert_close(norm.before(layer, x), layer(norm(x)))
    x = torch.randn(4, 5, requires_grad=True)
    norm.before(layer, x).sum().backward()
    assert x.grad.abs().min() > 0 and norm.weight.grad.abs().min() > 0
