"""Maps times gates of rows, columns and channels: both paths against the formula, gradients, bad input."""

import pytest
import torch

from dense.ops import coordinate_product


def tensors(*shape, dtype=torch.float32):
    b, c, h, w = shape
    torch.manual_seed(0)
    return [torch.randn(s, dtype=dtype) for s in ((b, c, h, w), (b, c, h), (b, c, w), (b, c))]


def by_formula(x, rows, columns, channels):
    gate = torch.einsum("bci,bcj->bcij", rows, columns)
    return x * (gate + channels[..., None, None])


def test_by_hand():
    x = torch.arange(1.0, 5).view(1, 1, 2, 2)
    rows, columns = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 5.0]]])
    found = coordinate_product(x, rows, columns, torch.tensor([[10.0]]))
    assert found.tolist() == [[[[13.0, 30.0], [48.0, 80.0]]]]
    assert coordinate_product(x, rows, columns).tolist() == [[[[3.0, 10.0], [18.0, 40.0]]]]


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_against_the_formula(backend, channels_last):
    x, *gates = tensors(2, 5, 9, 4)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    found = coordinate_product(x, *gates, backend=backend)
    torch.testing.assert_close(found, by_formula(x, *gates))
    assert found.stride() == x.stride()
    view = x[:, :, 1:8, ::2]
    cut = gates[0][..., 1:8], gates[1][..., ::2], gates[2]
    torch.testing.assert_close(coordinate_product(view, *cut, backend=backend), by_formula(view, *cut))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    x, *gates = tensors(1, 3, 4, 5, dtype=dtype)
    found = coordinate_product(x, *gates)
    assert found.dtype == dtype
    torch.testing.assert_close(found, by_formula(x, *gates), rtol=2e-2, atol=2e-2)
    with pytest.raises(ValueError, match="wants float32 on a CPU without gradient"):
        coordinate_product(x, *gates, backend="numba")


def test_gradients():
    inputs = [t.requires_grad_() for t in tensors(2, 2, 3, 2, dtype=torch.float64)]
    assert torch.autograd.gradcheck(coordinate_product, inputs)


def test_bad_input():
    x, rows, columns, channels = tensors(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"found \[\(1, 2, 3, 4\), \(1, 2, 4\), \(1, 2, 3\)\]"):
        coordinate_product(x, columns, rows)
    with pytest.raises(ValueError, match=r"\(1, 2, 4\), \(2,\)\]"):
        coordinate_product(x, rows, columns, channels[0])
