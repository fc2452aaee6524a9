"""Outlook attention against loops over windows, their pixels and what these take."""

import pytest
import torch

from dense.ops import outlook_attention

KINDS = [(3, 1, 1), (3, 2, 1), (5, 3, 2), (1, 1, 0), (2, 3, 0), (3, 1, 0)]  # K, stride, padding


def made(size, stride, height=7, width=9, heads=2, dims=3, dtype=torch.float64):
    torch.manual_seed(0)
    windows = (-(-height // stride), -(-width // stride))
    weights = torch.randn(2, *windows, heads, size**2, size**2, dtype=dtype).softmax(-1)
    return weights, torch.randn(2, height, width, heads * dims, dtype=dtype)


def by_loops(weights, values, size, stride, padding):
    height, width = values.shape[1:3]
    heads = weights.shape[3]
    values = values.unflatten(3, (heads, -1))
    out = [[torch.zeros_like(values[:, 0, 0]) for _ in range(width)] for _ in range(height)]
    for a in range(weights.shape[1]):
        for b in range(weights.shape[2]):
            places = [
                (a * stride - padding + i, b * stride - padding + j) for i in range(size) for j in range(size)
            ]
            on_map = [(t, y, x) for t, (y, x) in enumerate(places) if 0 <= y < height and 0 <= x < width]
            for t, y, x in on_map:
                for u, v, w in on_map:
                    out[y][x] = out[y][x] + weights[:, a, b, :, t, u, None] * values[:, v, w]
    return torch.stack([torch.stack(row, 1) for row in out], 1).flatten(3)


@pytest.mark.parametrize("size, stride, padding", KINDS)
def test_against_loops(size, stride, padding):
    weights, values = (x.requires_grad_() for x in made(size, stride))
    found = outlook_attention(weights, values, stride=stride, padding=padding)
    wanted = by_loops(weights, values, size, stride, padding)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(y.sin().sum(), (weights, values)) for y in (found, wanted)]
    torch.testing.assert_close(*gradients)


@torch.no_grad()
@pytest.mark.parametrize("size, stride, padding", KINDS)
def test_numba(size, stride, padding):
    weights, values = made(size, stride, dtype=torch.float32)
    how = {"stride": stride, "padding": padding}
    found, wanted = (outlook_attention(weights, values, backend=name, **how) for name in ("numba", "torch"))
    torch.testing.assert_close(found, wanted)


def test_equal_weights_are_a_triangular_filter():
    """Each window gives its mean to its pixels: inside, a filter of 5 x 5 places."""
    values = torch.randn(1, 9, 9, 1, dtype=torch.float64)
    weights = torch.full((1, 9, 9, 1, 9, 9), 1 / 9, dtype=torch.float64)
    y = outlook_attention(weights, values, padding=1)
    line = torch.tensor([1.0, 2, 3, 2, 1], dtype=torch.float64)
    wanted = (values[0, 2:7, 3:8, 0] * torch.outer(line, line)).sum() / 9
    torch.testing.assert_close(y[0, 4, 5, 0], wanted)


@pytest.mark.parametrize(
    "weights, how, message",
    [
        ((2, 4, 5, 2, 9, 9), {"padding": 1}, r"weights must be \(2, 7, 9, heads, K \* K, K \* K\)"),
        ((2, 7, 9, 2, 9, 8), {"padding": 1}, "weights must be"),
        ((2, 7, 9, 4, 9, 9), {"padding": 1}, "a divisor of the 6 channels"),
        ((2, 7, 9, 2, 9, 9), {"padding": 3}, r"padding must be within 0\.\.2 for windows of 3, found 3"),
        ((2, 7, 9, 2, 9, 9), {"stride": 0}, "stride must be at least 1, found 0"),
        ((2, 7, 9, 2, 9, 9), {"backend": "cuda"}, "backend must be one of"),
    ],
)
def test_errors(weights, how, message):
    with pytest.raises(ValueError, match=message):
        outlook_attention(torch.zeros(weights), torch.zeros(2, 7, 9, 6), **how)
