"""Inference by oneDNN equals plain PyTorch, which runs where gradients, other types or layouts are wanted."""

import pytest
import torch
from torch.nn import functional as F

from dense.ops import conv2d
from dense.ops.linear import ACTIVATIONS

WINDOWS = {
    "depthwise": (8, {"padding": 1, "groups": 8}),
    "multiplied": (24, {"stride": 2, "padding": 1, "groups": 8}),
    "pairs": (8, {"stride": (2, 1), "padding": 2, "dilation": 2, "groups": 4}),
    "strided": (12, {"stride": 2, "padding": (1, 0)}),
    "dilated": (4, {"dilation": (2, 1), "groups": 2}),
}


def operands(window, dtype=torch.float32):
    channels, how = WINDOWS[window]
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 8, 7, 9), (channels, 8 // how.get("groups", 1), 3, 3), (channels,)
    return [torch.randn(s, generator=generator, dtype=dtype) for s in shapes], how


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("with_bias", [True, False])
def test_inference(activation, window, layout, with_bias):
    (x, weight, bias), how = operands(window)
    bias = bias if with_bias else None
    with torch.inference_mode():
        found = conv2d(x.contiguous(memory_format=layout), weight, bias, **how, activation=activation)
    wide = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), **how)
    assert found.dtype == torch.float32 and found.is_contiguous(memory_format=layout)
    torch.testing.assert_close(found.double(), ACTIVATIONS[activation](wide), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_and_mixed_precision(activation):
    operand, how = operands("depthwise", torch.float64)
    operand = [t.requires_grad_() for t in operand]
    call = lambda *a: conv2d(*a, **how, activation=activation)  # noqa: E731
    assert torch.autograd.gradcheck(call, operand, fast_mode=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x, *rest = (t.float().contiguous() for t in operand)
        assert call(x.contiguous(memory_format=torch.channels_last), *rest).dtype == torch.bfloat16


def test_unknown_activations():
    (x, weight, bias), how = operands("depthwise")
    with pytest.raises(ValueError, match="activation must be one of .*found 'tanh'"):
        conv2d(x, weight, bias, **how, activation="tanh")
