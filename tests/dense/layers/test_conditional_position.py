import pytest
import torch
from torch import nn

from dense.layers import ConditionalPosition


def wanted(module, x):
    y = module.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x + (y if module.act is None else module.act(y))


@pytest.mark.parametrize("in_memory", ["channels first", "channels last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("kernel_size", "act"), [(3, None), (5, None), (3, nn.GELU())])
def test_equals_the_sum(kernel_size, act, dtype, in_memory):
    torch.manual_seed(0)
    module = ConditionalPosition(6, kernel_size, act).to(dtype)
    if in_memory == "channels last":
        x = torch.randn(2, 5, 4, 6, dtype=dtype)
    else:
        x = torch.randn(2, 6, 5, 4, dtype=dtype).permute(0, 2, 3, 1)
    torch.testing.assert_close(module(x), wanted(module, x))


def test_gradient():
    torch.manual_seed(0)
    module, x = ConditionalPosition(4), torch.randn(2, 5, 6, 4, requires_grad=True)
    inputs = (x, *module.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(module(x).sin().sum(), inputs),
        torch.autograd.grad(wanted(module, x).sin().sum(), inputs),
    )


def test_autocast_does_not_round_the_map():
    module, x = ConditionalPosition(4), torch.randn(1, 5, 6, 4)
    nn.init.zeros_(module.proj.weight), nn.init.zeros_(module.proj.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), x)
