"""LSTM cells: both backends against scalars in float64, far values, gradients, bad input."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from dense.ops import lstm_cell

BACKENDS = ("torch", "numba")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend):
    i, f, g, o, c = 0.3, -0.7, 1.2, 0.4, 2.0
    gates, cell = torch.tensor([i, f, g, o]).view(1, 4, 1, 1), torch.tensor(c).view(1, 1, 1, 1)

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    for before, old in ((cell, c), (None, 0)):
        wanted = sigmoid(f) * old + sigmoid(i) * math.tanh(g)
        hidden, after = lstm_cell(gates, before, backend=backend)
        assert after.item() == pytest.approx(wanted, abs=3e-7)
        assert hidden.item() == pytest.approx(sigmoid(o) * math.tanh(wanted), abs=3e-7)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(2, 3, 9, 7), (1, 8, 1, 1), (1, 1, 3, 40)])
def test_backends_agree(layout, size):
    batch, features, height, width = size
    gates = (4 * torch.randn(batch, 4 * features, height, width)).contiguous(memory_format=layout)
    cell = torch.randn(size).contiguous(memory_format=layout)
    for before in (cell, None):
        wanted = lstm_cell(gates, before, backend="torch")
        found = lstm_cell(gates, before, backend="numba")
        for x, y in zip(found, wanted, strict=True):
            assert x.shape == y.shape == size
            torch.testing.assert_close(x, y, rtol=0, atol=2e-6)


def test_tanh_and_sigmoid_everywhere():
    x = torch.cat([torch.linspace(-20, 20, 20001), torch.tensor([-1e30, 1e30, -math.inf, math.inf])])
    gates = torch.full((1, 4, 1, len(x)), 100.0)
    gates[:, 2] = x
    found = lstm_cell(gates, backend="numba")[1].flatten().double()
    assert (found - x.double().tanh()).abs().max() < 2.5e-7
    gates[:, 0], gates[:, 2] = x, 100
    found = lstm_cell(gates, backend="numba")[1].flatten().double()
    assert (found - x.double().sigmoid()).abs().max() < 2.5e-7


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_comes_through(backend):
    gates = torch.zeros(1, 4, 1, 2)
    gates[0, 1, 0, 1] = math.nan
    hidden, cell = lstm_cell(gates, torch.ones(1, 1, 1, 2), backend=backend)
    assert hidden.isnan().flatten().tolist() == cell.isnan().flatten().tolist() == [False, True]


def test_gradient():
    gates = torch.randn(1, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    cell = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lstm_cell, (gates, cell))
    assert gradcheck(lstm_cell, (gates,))


@pytest.mark.slow
def test_compiles():
    gates, cell = torch.randn(2, 8, 3, 4), torch.randn(2, 2, 3, 4)
    compiled = torch.compile(lstm_cell, fullgraph=True)
    for x, y in zip(compiled(gates, cell), lstm_cell(gates, cell), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "gates, cell, backend, error, message",
    [
        (torch.zeros(1, 6, 2, 2), None, "auto", ValueError, r"\(B, 4 F, H, W\), found \(1, 6, 2, 2\)"),
        (torch.zeros(4, 2, 2), None, "auto", ValueError, "found"),
        (torch.zeros(1, 8, 2, 2), torch.zeros(1, 2, 2, 3), "auto", ValueError, r"\(1, 2, 2, 2\), found"),
        (torch.zeros(1, 8, 2, 2).int(), None, "auto", TypeError, "found torch.int32"),
        (torch.zeros(1, 8, 2, 2), torch.zeros(1, 2, 2, 2).double(), "auto", TypeError, "torch.float64"),
        (torch.zeros(1, 8, 2, 2), None, "triton", ValueError, "found 'triton'"),
        (torch.zeros(1, 8, 2, 2).double(), None, "numba", ValueError, "found torch.float64 on cpu"),
        (torch.zeros(1, 8, 2, 2).requires_grad_(), None, "numba", ValueError, "found a gradient"),
    ],
)
def test_bad_input(gates, cell, backend, error, message):
    with pytest.raises(error, match=message):
        lstm_cell(gates, cell, backend=backend)
