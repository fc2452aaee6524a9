"""Inference by oneDNN equals plain PyTorch, which runs where gradients or other types are wanted."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dense.layers import MLP, Linear
from dense.ops.linear import ACTIVATIONS, MOST_JOINED, linear

ACTIVATION = list(ACTIVATIONS)


def operands(dtype=torch.float32, shape=(2, 5, 6), columns=8):
    generator = torch.Generator().manual_seed(0)
    shapes = ((*shape, columns), (12, columns), (12,), (*shape, 12))
    return [torch.randn(s, generator=generator).to(dtype) for s in shapes]


def reference(x, weight, bias, activation, times=None):
    y = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    by_hand = {
        None: lambda y: y,
        "relu": lambda y: y.clamp(min=0),
        "gelu": F.gelu,
        "silu": lambda y: y * y.sigmoid(),
    }
    y = by_hand[activation](y)
    return y if times is None else y * times.double()


@torch.no_grad()
@pytest.mark.parametrize("activation", ACTIVATION)
@pytest.mark.parametrize("shape", [(2, 5, 6), (3,), (), (0, 4)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("columns", [8, MOST_JOINED + 1])
def test_inference(activation, shape, with_bias, columns):
    x, weight, bias, _ = operands(shape=shape, columns=columns)
    bias = bias if with_bias else None
    found = linear(x, weight, bias, activation=activation)
    assert found.dtype == torch.float32 and found.is_contiguous()
    torch.testing.assert_close(found.double(), reference(x, weight, bias, activation), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_times_and_views():
    x, weight, bias, times = operands()
    wide = torch.randn(2, 5, 6, 30)
    wide[..., 3:11], wide[..., 15:27] = x, times
    found = linear(wide[..., 3:11], weight, bias, times=wide[..., 15:27])
    torch.testing.assert_close(found.double(), reference(x, weight, bias, None, times), rtol=1e-5, atol=1e-5)
    turned = weight.t().contiguous().t()
    torch.testing.assert_close(linear(x, turned, bias), linear(x, weight, bias))
    gaps = bias.repeat_interleave(2)[::2]
    for how in ({}, {"activation": "gelu"}, {"times": times}):
        torch.testing.assert_close(linear(x, weight, gaps, **how), linear(x, weight, bias, **how))


@pytest.mark.parametrize("activation", ACTIVATION)
def test_gradients(activation):
    x, weight, bias, _ = (t.requires_grad_() for t in operands(torch.float64, (3,)))
    assert torch.autograd.gradcheck(lambda *a: linear(*a, activation=activation), (x, weight, bias))


def test_gradient_of_times():
    arguments = [t.requires_grad_() for t in operands(torch.float64, (3,))]
    assert torch.autograd.gradcheck(lambda x, w, b, t: linear(x, w, b, times=t), arguments)


def test_float32_gradients_equal_plain_ones():
    x, weight, bias, _ = (t.requires_grad_() for t in operands())
    found = torch.autograd.grad(linear(x, weight, bias, activation="gelu").sum(), (x, weight, bias))
    wanted = torch.autograd.grad(F.gelu(F.linear(x, weight, bias)).sum(), (x, weight, bias))
    torch.testing.assert_close(found, wanted)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype):
    x, weight, bias, times = operands(dtype)
    found = linear(x, weight, bias, times=times)
    assert found.dtype == dtype
    assert torch.equal(found, F.linear(x, weight, bias) * times)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x.float(), weight.float(), bias.float()).dtype == torch.bfloat16


@torch.no_grad()
def test_compiled_and_traced_code_sees_plain_operators():
    x, weight, bias, _ = operands()
    wanted = linear(x, weight, bias, activation="gelu")
    torch.testing.assert_close(
        torch.compile(linear, backend="eager", fullgraph=True)(x, weight, bias, activation="gelu"), wanted
    )
    traced = torch.jit.trace(lambda x: linear(x, weight, bias, activation="gelu"), x)
    assert "mkldnn" not in str(traced.graph)
    torch.testing.assert_close(traced(x), wanted)


@torch.no_grad()
def test_products_are_counted():
    x, weight, bias, times = operands()
    with FlopCounterMode(display=False) as counter:
        linear(x, weight, bias, times=times)
    assert counter.get_total_flops() == 2 * 60 * 8 * 12


@torch.no_grad()
def test_without_onednn(monkeypatch):
    x, weight, bias, times = operands()
    fast = linear(x, weight, bias, times=times)
    monkeypatch.setattr(__import__("sys").modules[linear.__module__], "ONEDNN", False)
    torch.testing.assert_close(linear(x, weight, bias, times=times), fast)


def test_bad_arguments():
    x, weight, bias, times = operands()
    with pytest.raises(ValueError, match="'swish'"):
        linear(x, weight, bias, activation="swish")
    with pytest.raises(ValueError, match="times excludes an activation, found 'gelu'"):
        linear(x, weight, bias, activation="gelu", times=times)


@torch.no_grad()
def test_layers():
    x, weight, bias, times = operands()
    layer = Linear(8, 12)
    layer.load_state_dict({"weight": weight, "bias": bias})
    torch.testing.assert_close(layer(x, times=times), F.linear(x, weight, bias) * times)
    mlp = MLP(8, 12)
    wanted = F.linear(F.gelu(F.linear(x, *mlp.fc1.parameters())), *mlp.fc2.parameters())
    torch.testing.assert_close(mlp(x), wanted)
