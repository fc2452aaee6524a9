import importlib

import pytest
import torch

from pointsuite.ops import pool_neighbours

module = importlib.import_module("pointsuite.ops.pool_neighbours")


def arguments(dtype=torch.float64, batch=3):
    torch.manual_seed(0)
    x, weight, values = (
        torch.randn(*s, dtype=dtype).requires_grad_() for s in ((batch, 5, 4, 8), (6, 8), (batch, 7, 6))
    )
    return x, weight, values, torch.randint(0, 7, (batch, 5, 4))


@pytest.mark.parametrize("with_values", [True, False])
@pytest.mark.parametrize("part", [1, 2**20])
def test_fused_equals_plain(with_values, part, monkeypatch):
    monkeypatch.setattr(module, "cache_sized", lambda batch, _: slices(len(batch), part))
    x, weight, values, idx = arguments()
    values = values if with_values else None
    tensors = [t for t in (x, weight, values) if t is not None]
    results = []
    for fused in (True, False):
        found = pool_neighbours(x, weight, values, idx, fused=fused)
        torch.manual_seed(1)
        loss = sum((f * torch.randn_like(f)).sum() for f in found)
        results.append([*found, *torch.autograd.grad(loss, tensors)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def slices(size, step):
    return [slice(i, i + step) for i in range(0, size, step)]


def test_gradcheck():
    x, weight, values, idx = arguments()
    assert torch.autograd.gradcheck(lambda *t: pool_neighbours(*t, idx), (x, weight, values))


def test_variance_far_from_zero():
    """A mean of 1000 and a deviation of 1 in float32: the naive difference of squares has no digit left."""
    x, weight, values, idx = arguments(torch.float32, batch=8)
    values = values.detach() + 1000
    _, mean, variance = pool_neighbours(x, weight, values, idx)
    _, wanted_mean, wanted = pool_neighbours(x.double(), weight.double(), values.double(), idx, fused=False)
    torch.testing.assert_close(mean.double(), wanted_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), wanted, rtol=1e-4, atol=0)


def test_by_hand():
    x = torch.tensor([[[[1.0], [4.0], [4.0]]]])
    top, mean, variance = pool_neighbours(
        x, torch.tensor([[2.0]]), None, torch.zeros(1, 1, 3, dtype=torch.int64)
    )
    assert (top.item(), mean.item(), variance.item()) == (8, 6, 8)


@pytest.mark.parametrize("with_values", [True, False])
def test_maximum_alone(with_values):
    x, weight, values, idx = arguments()
    values = values if with_values else None
    wanted = pool_neighbours(x, weight, values, idx)[0]
    found, mean, variance = pool_neighbours(x, weight, values, idx, moments=False)
    assert mean is None and variance is None and torch.equal(found, wanted) and found.requires_grad
    with torch.no_grad():
        for fused in (True, False):
            found = pool_neighbours(x, weight, values, idx, moments=False, fused=fused)[0]
            torch.testing.assert_close(found, wanted.detach())


def test_gradients_far_from_zero():
    """Products of sums must not cost float32 its digits where values lie far from zero."""
    x, weight, values, idx = arguments(torch.float32, batch=8)
    values = (values.detach() + 100).requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (x, weight, values)]
    grads = []
    for tensors in ((x, weight, values), exact):
        top, mean, variance = pool_neighbours(*tensors, idx, fused=tensors[0] is x)
        loss = ((top - mean) / (variance + 1e-5).sqrt()).square().sum()
        grads.append([g.double() for g in torch.autograd.grad(loss, tensors)])
    for a, b in zip(*grads, strict=True):
        assert (a - b).norm() < 1e-4 * b.norm()


@pytest.mark.parametrize("graded", [True, False])
@pytest.mark.parametrize("place", [0, 2])
def test_nan_comes_out(graded, place):
    """Of one neighbour, the first or another, of a point, and of a weight."""
    for number, index in enumerate([(0, 1, place), 1, (0, 3)]):
        *given, idx = (t.detach() for t in arguments())
        idx[0, 0, 0] = 3
        given[number][index] = float("nan")
        with torch.set_grad_enabled(graded):
            given = [t.requires_grad_(graded) for t in given]
            found, wanted = (
                pool_neighbours(*given, idx, moments=False, fused=fused)[0].isnan() for fused in (True, False)
            )
        assert found.any() and torch.equal(found, wanted)
