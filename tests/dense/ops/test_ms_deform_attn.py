import sys
from types import SimpleNamespace

import pytest
import torch

from dense.ops import ms_deform_attn
from dense.ops.ms_deform_attn import ms_deform_attn_backward

from . import reference

SHAPES = torch.tensor([[4, 6], [2, 3], [1, 1]])
STARTS = torch.tensor([0, 24, 30])


def make(dtype=torch.float64, batch=2, heads=2, dims=3, queries=5, points=4):
    value = torch.randn(batch, 31, heads, dims, dtype=dtype)
    locations = torch.rand(batch, queries, heads, 3, points, 2, dtype=dtype) * 1.6 - 0.3  # some outside
    weights = torch.rand(batch, queries, heads, 3, points, dtype=dtype)
    return value, SHAPES, STARTS, locations, weights


def test_reference():
    arguments = make()
    torch.testing.assert_close(ms_deform_attn(*arguments), reference.ms_deform_attn(*arguments))


def test_by_hand():
    value = torch.arange(4.0).view(1, 4, 1, 1)  # one map, [[0, 1], [2, 3]]
    locations = torch.tensor([[0.25, 0.25], [0.5, 0.5], [0.75, 0.5], [0.0, 0.0], [3.0, 0.5]])
    found = ms_deform_attn(
        value,
        torch.tensor([[2, 2]]),
        torch.tensor([0]),
        locations.view(1, 5, 1, 1, 1, 2),
        torch.ones(1, 5, 1, 1, 1),
    )
    # a pixel; the middle; between two; the corner, of whose four pixels three are outside; far outside
    assert found.flatten().tolist() == [0.0, 1.5, 2.0, 0.0, 0.0]


def test_gradient():
    value, shapes, starts, locations, weights = make(batch=1, queries=2, points=2)
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, x, w: ms_deform_attn(v, shapes, starts, x, w), inputs)
    grad = torch.randn(1, 2, 6, dtype=torch.float64)
    wanted = torch.autograd.grad(ms_deform_attn(value, shapes, starts, locations, weights), inputs, grad)
    found = ms_deform_attn_backward(grad, value, shapes, starts, locations, weights)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)]
)
def test_dtypes(dtype, tolerance):
    value, shapes, starts, locations, weights = make()
    wanted = ms_deform_attn(value, shapes, starts, locations, weights)
    found = ms_deform_attn(value.to(dtype), shapes, starts, locations.float(), weights.float())
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


def test_not_finite_locations_count_nothing():
    value, shapes, starts, locations, weights = make()
    wanted = weights.clone()
    for bad, level in ((float("nan"), 0), (float("inf"), 1), (-1e30, 2)):
        locations[:, :, :, level, 0] = bad
        wanted[:, :, :, level, 0] = 0
    found = ms_deform_attn(value, shapes, starts, locations, weights)
    torch.testing.assert_close(found, ms_deform_attn(value, shapes, starts, locations.nan_to_num(2), wanted))


def test_kernel_is_called(monkeypatch):
    """The file of kernels need only offer the two functions."""
    calls = []

    def forward(*arguments):
        calls.append("forward")
        return ms_deform_attn(*arguments, backend="torch")

    def backward(grad_output, *arguments):
        calls.append("backward")
        return ms_deform_attn_backward(grad_output, *arguments, backend="torch")

    kernels = SimpleNamespace(forward=forward, backward=backward)
    monkeypatch.setitem(sys.modules, "dense.ops.triton", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "dense.ops.triton.ms_deform_attn", kernels)
    value, shapes, starts, locations, weights = make()
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    found = [
        ms_deform_attn(value, shapes, starts, locations, weights, backend=b) for b in ("triton", "torch")
    ]
    assert torch.equal(*found)
    grads = [torch.autograd.grad(output.square().sum(), inputs) for output in found]
    torch.testing.assert_close(*grads)
    assert calls == ["forward", "backward"]


def test_compile():
    arguments = make()
    compiled = torch.compile(ms_deform_attn, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*arguments), ms_deform_attn(*arguments))


@pytest.mark.parametrize(
    ("position", "bad", "message"),
    [
        (0, torch.zeros(2, 31, 6), r"value must be floating \(B, S, M, D\)"),
        (1, torch.zeros(3, dtype=torch.int64), r"spatial_shapes must be \(L, 2\), found \(3,\)"),
        (2, torch.zeros(2, dtype=torch.int64), r"level_start_index must be \(3,\), found \(2,\)"),
        (3, torch.zeros(2, 5, 2, 2, 4, 2), r"sampling_locations must be \(2, Q, 2, 3, P, 2\)"),
        (4, torch.zeros(2, 5, 2, 3, 1), r"attention_weights must be \(2, 5, 2, 3, 4\)"),
    ],
)
def test_bad_input(position, bad, message):
    arguments = list(make())
    arguments[position] = bad
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(*arguments)


def test_bad_backend():
    with pytest.raises(ValueError, match="backend must be one of"):
        ms_deform_attn(*make(), backend="cuda")
