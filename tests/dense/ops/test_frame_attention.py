"""Logits of whole frames: against loops, layouts, gradients, bad input."""

import pytest
import torch
from torch.autograd import gradcheck

from dense.ops import frame_logits

BACKENDS = ("torch", "numba")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def frames(batch=2, count=3, channels=8, size=(5, 4), **kwargs):
    return torch.randn(batch, count, channels, *size, **kwargs)


def naive(query, key, num_heads):
    out = query.new_zeros(len(query), num_heads, query.shape[1], key.shape[1])
    for b, h, i, j in torch.cartesian_prod(*map(torch.arange, out.shape)).tolist():
        q, k = (x.chunk(num_heads, 2)[h] for x in (query, key))
        out[b, h, i, j] = (q[b, i] * k[b, j]).sum()
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_heads", [1, 2, 8])
@pytest.mark.parametrize("size", [(5, 4), (1, 7), (6, 1)])
def test_equal_loops(backend, num_heads, size):
    query, key = frames(size=size), frames(count=4, size=size)
    found = frame_logits(query, key, num_heads, backend=backend)
    torch.testing.assert_close(found, naive(query, key, num_heads), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend):
    query = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 1, 2)  # channel 0: 1 2, channel 1: 3 4
    key = torch.tensor([1.0, 0.0, 0.0, 10.0]).view(1, 1, 2, 1, 2)
    assert frame_logits(query, key, 2, backend=backend).flatten().tolist() == [1, 40]
    assert frame_logits(query, key, 1, backend=backend).flatten().tolist() == [41]


@pytest.mark.parametrize("slices", [lambda x: x.split(8, 2)[1:], lambda x: (x[:, ::2, :8], x[:, 1:, 16:])])
def test_slices_of_channels_last_frames(slices):
    images = torch.randn(6, 24, 5, 4).contiguous(memory_format=torch.channels_last)
    query, key = slices(images.unflatten(0, (2, 3)))
    found = frame_logits(query, key, 2, backend="numba")
    torch.testing.assert_close(found, frame_logits(query.clone(), key.clone(), 2, backend="torch"))


def test_gradient():
    query, key = (frames(1, 2, 4, (2, 3), dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert gradcheck(lambda q, k: frame_logits(q, k, 2), (query, key))


@pytest.mark.slow
def test_compiles():
    query, key = frames(), frames(count=4)
    compiled = torch.compile(lambda q, k: frame_logits(q, k, 2), fullgraph=True)
    torch.testing.assert_close(compiled(query, key), frame_logits(query, key, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "query, key, num_heads, backend, error, message",
    [
        (frames()[0], frames(), 2, "auto", ValueError, r"\(B, T, C, H, W\), found \(3, 8, 5, 4\)"),
        (frames(), frames(channels=4), 2, "auto", ValueError, r"agree.*\(2, 3, 4, 5, 4\)"),
        (frames(), frames(1), 2, "auto", ValueError, "agree"),
        (frames(), frames(), 3, "auto", ValueError, "multiple of num_heads 3, found 8"),
        (
            frames(),
            frames().double(),
            2,
            "auto",
            TypeError,
            "one dtype, found torch.float32 and torch.float64",
        ),
        (frames().int(), frames().int(), 2, "auto", TypeError, "floating"),
        (frames(), frames(), 2, "triton", ValueError, "backend must be .*found 'triton'"),
        (frames().double(), frames().double(), 2, "numba", ValueError, "found torch.float64 on cpu"),
        (frames(requires_grad=True), frames(), 2, "numba", ValueError, "found a gradient"),
    ],
)
def test_bad_input(query, key, num_heads, backend, error, message):
    with pytest.raises(error, match=message):
        frame_logits(query, key, num_heads, backend=backend)
