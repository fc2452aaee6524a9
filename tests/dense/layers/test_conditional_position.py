import pytest
import torch
from torch import nn

from dense.layers import ConditionalPosition


def wanted(module, x):
    y = module.proj(x)
    return x + (y if module.act is None else module.act(y))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("kernel_size", "act"), [(3, None), (5, None), (3, nn.GELU())])
def test_equals_the_sum(kernel_size, act, dtype, layout):
    torch.manual_seed(0)
    module = ConditionalPosition(6, kernel_size, act).to(dtype)
    x = torch.randn(2, 6, 5, 4, dtype=dtype).to(memory_format=layout)
    torch.testing.assert_close(module(x), wanted(module, x))


def test_gradient():
    torch.manual_seed(0)
    module, x = ConditionalPosition(4), torch.randn(2, 4, 5, 6, requires_grad=True)
    inputs = (x, *module.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(module(x).sin().sum(), inputs),
        torch.autograd.grad(wanted(module, x).sin().sum(), inputs),
    )


def test_autocast_does_not_round_the_map():
    module, x = ConditionalPosition(4), torch.randn(1, 4, 5, 6)
    nn.init.zeros_(module.proj.weight), nn.init.zeros_(module.proj.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), x)
