"""Halo attention against a loop over queries, with logits written out."""

import pytest
import torch

from dense.ops import halo_attention

from ..memory import LargestTensor

KINDS = [  # block, halo, stride, step, height, width
    (4, 1, 1, None, 8, 12),
    (4, 2, 2, 1, 8, 8),
    (4, 2, 2, None, 9, 6),
    (3, 1, 1, None, 7, 5),
    (6, 0, 3, None, 11, 6),
    (5, 2, 1, None, 3, 4),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def made(block, halo, stride, height, width, heads=2, dims=3, values=2, dtype=torch.float64):
    queries = torch.randn(2, -(-height // stride), -(-width // stride), heads, dims, dtype=dtype)
    keys = torch.randn(2, height, width, heads, dims + values, dtype=dtype)
    tables = torch.randn(2, 2 * (block + 2 * halo) - 1, dims, dtype=dtype)
    return [x.requires_grad_() for x in (queries, keys, *tables.clone())]


def by_loops(q, kv, rows, columns, block, halo, stride, step, scale, position_scale, mask_padding):
    height, width, dims = *kv.shape[1:3], q.shape[-1]
    step, side = stride if step is None else step, block // stride
    window = block + 2 * halo
    out = []
    for y in range(q.shape[1]):
        line = []
        for x in range(q.shape[2]):
            query, logits, values = q[:, y, x], [], []
            for i in range(window):
                for j in range(window):
                    key_y, key_x = y // side * block - halo + i, x // side * block - halo + j
                    inside = 0 <= key_y < height and 0 <= key_x < width
                    if mask_padding and not inside:
                        continue
                    pair = kv[:, key_y, key_x] if inside else torch.zeros_like(kv[:, 0, 0])
                    place = (
                        rows[i - step * (y % side) + window - 1] + columns[j - step * (x % side) + window - 1]
                    )
                    logits.append((query * (scale * pair[..., :dims] + position_scale * place)).sum(-1))
                    values.append(pair[..., dims:])
            weights = torch.stack(logits).softmax(0)
            line.append((weights[..., None] * torch.stack(values)).sum(0))
        out.append(torch.stack(line, 1))
    return torch.stack(out, 1)


@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("block, halo, stride, step, height, width", KINDS)
def test_against_loops(block, halo, stride, step, height, width, mask_padding):
    inputs = made(block, halo, stride, height, width)
    how = {"scale": 0.6, "position_scale": 0.8, "mask_padding": mask_padding, "stride": stride, "step": step}
    found = halo_attention(*inputs, block, halo, **how)
    wanted = by_loops(*inputs, block, halo, **how)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(y.sin().sum(), inputs) for y in (found, wanted)]
    torch.testing.assert_close(*gradients)


@torch.no_grad()
def test_pieces_of_an_inference():
    inputs = made(4, 1, 1, 40, 24, heads=4, dims=16, values=16, dtype=torch.float32)
    with torch.enable_grad():
        whole = halo_attention(*inputs, 4, 1)
    with LargestTensor() as largest:
        found = halo_attention(*inputs, 4, 1)
    torch.testing.assert_close(found, whole)
    assert largest.numel < 40 * 24 * 2 * 40 * 24


@pytest.mark.parametrize("mask_padding", [False, True])
def test_half_precision(mask_padding):
    inputs = made(4, 2, 1, 7, 6)
    found = halo_attention(*(x.bfloat16() for x in inputs), 4, 2, mask_padding=mask_padding)
    wanted = halo_attention(*inputs, 4, 2, mask_padding=mask_padding)
    assert found.isfinite().all() and (found - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"block": 5, "stride": 2}, "block must be a multiple of the stride.* found 5, 2 and 1"),
        ({"halo": 2}, r"tables of positions must be \(15, 3\), found \(11, 3\)"),
        ({"stride": 2}, r"queries of \(2, 8, 8, 2, 3\) do not fit keys and values of \(2, 8, 8, 2, 5\)"),
    ],
)
def test_errors(change, message):
    inputs = made(4, 1, 1, 8, 8)
    with pytest.raises(ValueError, match=message):
        halo_attention(*inputs, **{"block": 4, "halo": 1, **change})
