"""Injective attention: against its formula, its weights, its convolution."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.layers import InjectiveAttention, record_attention


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def noisy(module):
    """Weights large enough that every one counts, in float64."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    return module.double().eval()


def naive(module, tokens, grid):
    """Sample by sample, head by head."""
    channels, heads = tokens.shape[-1], module.num_heads
    d, count = channels // heads, tokens.shape[1]
    q, k, v = module.qkv(tokens).split(channels, -1)
    y = torch.empty_like(tokens)
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        keys = k[..., part] - k[..., part].mean(1, keepdim=True)
        weights = q[..., part] @ keys.mT * d**-0.5 / count + 1 / count
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        y[..., part] = weights @ v[..., part]
    for b in range(len(tokens)):
        kernels = module.residual(tokens[b].mean(0)[None, :, None]).view(channels, 1, 3, 3)
        if module.lepe is not None:
            kernels = kernels + module.lepe.weight
        values = v[b, -grid[0] * grid[1] :].T.unflatten(1, grid)
        bias = None if module.lepe is None else module.lepe.bias
        local = F.conv2d(values[None], kernels, bias, padding=1, groups=channels)[0]
        y[b, -grid[0] * grid[1] :] += local.flatten(1).T
    return module.proj(y)


@pytest.mark.parametrize("lepe", [False, True])
@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_equals_the_formula(prefix, lepe):
    module = noisy(InjectiveAttention(12, 3, lepe=lepe))
    tokens = torch.randn(2, prefix + 20, 12).double()
    torch.testing.assert_close(module(tokens, (4, 5)), naive(module, tokens, (4, 5)))
    if not prefix:
        maps = tokens.unflatten(1, (4, 5))
        torch.testing.assert_close(module(maps), naive(module, tokens, (4, 5)).view(maps.shape))


@pytest.mark.parametrize("feature", ["identity", "relu", "leaky_relu", "exp"])
def test_recorded_weights_give_the_same(feature):
    module = noisy(InjectiveAttention(8, 2, feature=feature))
    x = torch.randn(2, 3, 4, 8).double()
    wanted = module(x)
    with record_attention(module) as found:
        torch.testing.assert_close(module(x), wanted)
    (weights,) = found[""]
    assert weights.shape == (2, 2, 12, 12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 12).double())


def without_kernels(module):
    for parameter in module.residual[2].parameters():
        nn.init.zeros_(parameter)
    return module


def test_without_kernels_positions_do_not_matter():
    module = without_kernels(noisy(InjectiveAttention(8, 2)))
    tokens, order = torch.randn(1, 12, 8).double(), torch.randperm(12)
    found = module(tokens[:, order], (3, 4))
    torch.testing.assert_close(found, module(tokens, (3, 4))[:, order])


def test_the_centre_of_the_kernel_adds_the_value():
    module = without_kernels(noisy(InjectiveAttention(4, 2)))
    x = torch.randn(1, 3, 3, 4).double()
    plain = module(x)
    with torch.no_grad():  # channels are the slowest index of the kernels
        module.residual[2].bias[4::9] = 1
    value = module.qkv(x)[..., 8:]
    torch.testing.assert_close(module(x) - plain, F.linear(value, module.proj.weight))


def test_kernels_of_what_is_handed_over():
    module = noisy(InjectiveAttention(4, 2))
    x, pooled = torch.randn(2, 3, 3, 4).double(), torch.randn(2, 4).double()
    torch.testing.assert_close(module(x, pooled=x.mean((1, 2))), module(x))
    assert not torch.allclose(module(x, pooled=pooled), module(x))


def test_bad_input():
    with pytest.raises(ValueError, match="feature must be one of .*, found 'swish'"):
        InjectiveAttention(8, 2, feature="swish")
    with pytest.raises(ValueError, match="num_heads must divide embed_dims 8, found 3"):
        InjectiveAttention(8, 3)
