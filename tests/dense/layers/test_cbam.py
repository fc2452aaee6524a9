"""CBAM: against its formula, gates alone, bad input."""

import pytest
import torch
from torch.nn import functional as F

from dense.layers import CBAM
from tests.dense.noise import noisy


def test_against_the_formula():
    torch.manual_seed(0)
    layer, x = noisy(CBAM(8, ratio=2, kernel_size=3)), torch.randn(2, 8, 6, 5).double()

    def mlp(v):
        return (v @ layer.fc1.weight.T).relu() @ layer.fc2.weight.T

    gated = x * (mlp(x.mean((2, 3))) + mlp(x.flatten(2).max(2)[0])).sigmoid()[..., None, None]
    seen = torch.stack((gated.mean(1), gated.max(1)[0]), 1)
    wanted = gated * F.conv2d(seen, layer.conv.weight, padding=1).sigmoid()
    torch.testing.assert_close(layer.gate_channels(x), gated)
    torch.testing.assert_close(layer(x), wanted)


def test_no_weights_give_a_quarter():
    layer, x = CBAM(4), torch.randn(1, 4, 3, 3)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(layer(x), x / 4)


def test_bad_input():
    with pytest.raises(ValueError, match="kernel_size of CBAM must be odd, found 4"):
        CBAM(8, kernel_size=4)
