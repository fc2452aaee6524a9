"""Attention in windows: against loops, by hand, gradients, dtypes, bad input."""

from itertools import product

import pytest
import torch

from dense.ops import chunks, window_attention


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def naive_attention(q, kv, bias, heads, offset, pad_keys):
    """Pixel by pixel, key by key."""
    (batch, height, width, channels), size, keys = q.shape, bias.shape[1], bias.shape[3]
    margin = (keys - size) // 2
    y = torch.zeros_like(q)
    for row, column in product(range(height), range(width)):
        query = [place - (place - offset) // size * size - offset for place in (row, column)]
        top, left = row - query[0] - margin, column - query[1] - margin
        logits, values = [], []
        for i, j in product(range(keys), range(keys)):
            inside = 0 <= top + i < height and 0 <= left + j < width
            if not (inside or pad_keys):
                continue
            key_value = kv[:, top + i, left + j] if inside else kv.new_zeros(batch, 2 * channels)
            k, v = key_value.unflatten(-1, (2, heads, -1)).unbind(1)  # (B, heads, d)
            product_ = (q[:, row, column].unflatten(-1, (heads, -1)) * k).sum(-1) * k.shape[-1] ** -0.5
            logits.append(product_ + bias[:, query[0], query[1], i, j])
            values.append(v)
        weights = torch.stack(logits).softmax(0)
        y[:, row, column] = (weights[..., None] * torch.stack(values)).sum(0).flatten(1)
    return y


@pytest.mark.parametrize(
    ("size", "keys", "offset", "pad_keys"),
    [(4, 4, 0, False), (4, 4, -2, False), (3, 3, -2, False)]
    + [(keys[0], keys[1], 0, pad) for keys in ((4, 6), (2, 5), (2, 8), (4, 4)) for pad in (False, True)],
)
def test_equals_loops(size, keys, offset, pad_keys, monkeypatch):
    heads, side = 2, (12, 2 * size)
    q, kv = torch.randn(2, *side, 6).double(), torch.randn(2, *side, 12).double()
    bias = torch.randn(heads, size, size, keys, keys).double()
    wanted = naive_attention(q, kv, bias, heads, offset, pad_keys)
    found = window_attention(q, kv, bias, heads, offset=offset, pad_keys=pad_keys)
    torch.testing.assert_close(found, wanted)
    monkeypatch.setattr(chunks, "NUMBERS_ON_CPU", 1)
    with torch.no_grad():  # a row of windows at a time
        torch.testing.assert_close(
            window_attention(q, kv, bias, heads, offset=offset, pad_keys=pad_keys), wanted
        )


@pytest.mark.parametrize(("keys", "offset", "pad_keys"), [(2, -1, False), (4, 0, False), (4, 0, True)])
def test_gradients(keys, offset, pad_keys):
    shapes = ((1, 4, 4, 2), (1, 4, 4, 4), (1, 2, 2, keys, keys))
    arguments = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(
        lambda *a: window_attention(*a, 1, offset=offset, pad_keys=pad_keys), arguments
    )


def test_by_hand():
    """Windows of one row of two pixels: with equal logits each pixel gets the mean of its window."""
    values = torch.tensor([1.0, 3, 10, 30]).view(1, 2, 2, 1)
    kv = torch.cat([torch.zeros_like(values), values], -1)
    whole = window_attention(torch.zeros_like(values), kv, torch.zeros(1, 2, 2, 2, 2), 1)
    assert whole.flatten().tolist() == [11, 11, 11, 11]
    cut = window_attention(torch.zeros_like(values), kv, torch.zeros(1, 2, 2, 2, 2), 1, offset=-1)
    assert cut.flatten().tolist() == [1, 3, 10, 30]  # four windows, each with one pixel on the map


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shapes_and_dtypes(dtype):
    q, kv = torch.randn(2, 5, 7, 6).to(dtype), torch.randn(2, 5, 7, 12).to(dtype)
    y = window_attention(q, kv, torch.randn(3, 4, 4, 6, 6), 3)
    assert y.shape == q.shape and y.dtype == dtype and y.isfinite().all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": (4, 4, 2)}, r"found \(4, 4, 2\) and \(1, 4, 4, 4\)"),
        ({"kv": (1, 4, 4, 3)}, r"\(B, H, W, 2 C\), found \(1, 4, 4, 2\) and \(1, 4, 4, 3\)"),
        ({"num_heads": 3}, "divide the 2 channels, found 3"),
        ({"bias": (2, 2, 2, 2, 2)}, r"\(1, M, M, K, K\), K at least M, found \(2, 2, 2, 2, 2\)"),
        ({"bias": (1, 2, 2, 1, 1)}, r"found \(1, 2, 2, 1, 1\)"),
        ({"offset": -2}, r"within -1\.\.0 for windows of 2, found -2"),
        ({"offset": 1}, "found 1"),
    ],
)
def test_bad_input(changed, message):
    arguments = {"q": (1, 4, 4, 2), "kv": (1, 4, 4, 4), "bias": (1, 2, 2, 2, 2), "num_heads": 1, **changed}
    arguments = {k: torch.zeros(v) if isinstance(v, tuple) else v for k, v in arguments.items()}
    with pytest.raises(ValueError, match=message):
        window_attention(**arguments)
