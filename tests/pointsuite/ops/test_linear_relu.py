import importlib

import pytest
import torch

from pointsuite.ops import linear_relu

from .test_pool_neighbours import slices

module = importlib.import_module("pointsuite.ops.linear_relu")


def arguments(dtype=torch.float64):
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*s, dtype=dtype) for s in ((3, 4, 5, 6), (7, 6), (7,)))
    return x, weight.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("part", [1, 2, 2**20])
def test_fused_equals_plain(part, monkeypatch):
    monkeypatch.setattr(module, "cache_sized", lambda batch, _: slices(len(batch), part))
    x, weight, bias = arguments()
    results = []
    for fused in (True, False):
        found = linear_relu(x, weight, bias, fused=fused)
        results.append([found, *torch.autograd.grad((found * found.detach()).sum(), (weight, bias))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_gradcheck():
    x, weight, bias = arguments()
    assert torch.autograd.gradcheck(lambda *t: linear_relu(x, *t), (weight, bias))


def test_by_hand_and_without_gradient():
    x, weight, bias = (
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[3.0, 1.0], [-1.0, 0.0]]),
        torch.tensor([0.5, 0]),
    )
    assert linear_relu(x, weight, bias).tolist() == [[5.5, 0]]
    with torch.no_grad():
        assert linear_relu(x, weight, bias).tolist() == [[5.5, 0]]


def test_x_is_a_constant():
    x, weight, bias = arguments()
    linear_relu(x.requires_grad_(), weight, bias).sum().backward()
    assert x.grad is None and weight.grad is not None
