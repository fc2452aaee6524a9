"""Context mixing against loops over positions."""

import pytest
import torch
from torch.nn import functional as F

from dense.ops import context_mixing
from dense.ops.context_mixing import find_runs

from ..memory import LargestTensor

# K, H, W: windows in the middle, maps as large as the window, wide ones, of one row
SIZES = [(3, 5, 9), (5, 5, 23), (3, 11, 3), (1, 4, 5), (7, 7, 7), (5, 6, 7)]


def made(size, height, width, dtype=torch.float64, batch=2, groups=3):
    torch.manual_seed(0)
    shapes = (
        (batch, height, width, groups, 4),
        (batch, groups, size**2, 4),
        (size**2,),
        (groups, 2 * size - 1, 2 * size - 1),
        (batch, height, width, groups, 2),
    )
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


def by_loops(q, taps, offset, bias, v, size):
    rows = []
    for y in range(q.shape[1]):
        row = []
        for x in range(q.shape[2]):
            top = min(max(y - size // 2, 0), q.shape[1] - size)
            left = min(max(x - size // 2, 0), q.shape[2] - size)
            down, across = top - y + size - 1, left - x + size - 1
            logits = torch.einsum("bgd,bgkd->bgk", q[:, y, x], taps) + offset
            logits = logits + bias[:, down : down + size, across : across + size].flatten(1)
            seen = v[:, top : top + size, left : left + size].flatten(1, 2)
            row.append(torch.einsum("bgk,bkgc->bgc", logits.softmax(-1), seen))
        rows.append(torch.stack(row, 1))
    return torch.stack(rows, 1)


@pytest.mark.parametrize("size, height, width", SIZES)
def test_against_loops(size, height, width):
    tensors = [t.requires_grad_() for t in made(size, height, width)]
    wanted = by_loops(*tensors, size)
    with torch.no_grad():
        torch.testing.assert_close(context_mixing(*tensors, size), wanted)
    found = context_mixing(*tensors, size)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(y.sin().sum(), tensors) for y in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_gradcheck():
    tensors = [t.requires_grad_() for t in made(3, 4, 5, batch=1, groups=1)]
    assert torch.autograd.gradcheck(lambda *t: context_mixing(*t, 3), tensors, fast_mode=True)


def test_a_constant_stays():
    q, taps, offset, bias, _ = made(5, 7, 9)
    v = torch.ones(2, 7, 9, 3, 1, dtype=q.dtype)
    torch.testing.assert_close(context_mixing(q, taps, offset, bias, v, 5), v)


def test_equal_logits_are_the_mean_of_the_window():
    q, taps, offset, bias, v = made(3, 5, 6)
    y = context_mixing(q, 0 * taps, 0 * offset, 0 * bias, v, 3)
    torch.testing.assert_close(y[:, 2, 3], v[:, 1:4, 2:5].mean((1, 2)))
    torch.testing.assert_close(y[:, 0, 0], v[:, :3, :3].mean((1, 2)))
    torch.testing.assert_close(y[:, 0, 0], y[:, 1, 1])  # the same window


def test_logits_of_taps_alone_are_a_convolution_inside():
    q, taps, offset, bias, v = made(3, 6, 7)
    y = context_mixing(0 * q, taps, offset, 0 * bias, v, 3)
    kernel = offset.softmax(0).view(1, 1, 3, 3)
    maps = v.permute(0, 3, 4, 1, 2).flatten(0, 2)[:, None]
    wanted = F.conv2d(maps, kernel)[:, 0].unflatten(0, (2, 3, 2)).permute(0, 3, 4, 1, 2)
    torch.testing.assert_close(y[:, 1:-1, 1:-1], wanted)


def test_bias_goes_by_position_and_taps_by_place():
    """At a border the middle of the table still belongs to the position itself."""
    q, taps, offset, bias, v = made(3, 5, 6)
    bias = torch.full_like(bias, -1e9)
    bias[:, 2, 2] = 0
    torch.testing.assert_close(context_mixing(0 * q, taps, 0 * offset, bias, v, 3), v)


@torch.no_grad()
def test_weights_of_all_positions_are_never_there():
    size, side = 13, 56
    tensors = made(size, side, side, torch.float32, batch=1, groups=8)
    with LargestTensor() as largest:
        context_mixing(*tensors, size)
    assert largest.numel < 8 * side**2 * size**2 / 4


def test_runs():
    first = torch.tensor([0, 0, 0, 1, 2, 3, 4, 4, 4]).numpy()
    assert list(find_runs(first, 2)) == [(0, 3, 0), (3, 5, 1), (5, 6, 1), (6, 9, 0)]
    assert list(find_runs(first[3:6], 8)) == [(0, 3, 1)]


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"window": 4}, ValueError, "window must be odd, found 4"),
        ({"window": 7}, ValueError, "axis 0 has 5 positions, wanted at least 7"),
        ({"v": torch.zeros(2, 5, 6, 2, 2)}, ValueError, r"q and v must be \(B, H, W, G, d\)"),
        ({"taps": torch.zeros(2, 3, 8, 4)}, ValueError, r"taps must be \(2, 3, 9, 4\), found \(2, 3, 8, 4\)"),
        ({"offset": torch.zeros(8)}, ValueError, r"offset must be \(9,\)"),
        ({"bias": torch.zeros(3, 3, 3)}, ValueError, r"bias must be \(3, 5, 5\)"),
        (
            {"offset": torch.zeros(9).double()},
            TypeError,
            r"of one dtype, found torch\.float32, torch\.float64",
        ),
        ({"backend": "numba"}, ValueError, "backend must be one of"),
    ],
)
def test_errors(change, error, message):
    names = ("q", "taps", "offset", "bias", "v")
    arguments = dict(zip(names, made(3, 5, 6, torch.float32), strict=True), window=3)
    with pytest.raises(error, match=message):
        context_mixing(**{**arguments, **change})
