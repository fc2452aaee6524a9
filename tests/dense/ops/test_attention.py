import pytest
import torch

from dense.ops import padded_attention


def naive(q, k, v, scale):
    return (scale * q @ k.mT).softmax(-1) @ v


def tensors(width, channels, **kwargs):
    torch.manual_seed(0)
    shapes = ((2, 3, 5, width), (2, 3, 7, width), (2, 3, 7, channels))
    return tuple(torch.randn(shape, dtype=torch.float64, **kwargs) for shape in shapes)


@pytest.mark.parametrize(("width", "channels"), [(4, 4), (4, 9), (9, 4)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_equals_the_formula(width, channels, scale):
    q, k, v = tensors(width, channels)
    found = padded_attention(q, k, v, scale)
    torch.testing.assert_close(found, naive(q, k, v, width**-0.5 if scale is None else scale))


def test_a_single_key_gives_its_value():
    q, k, v = tensors(4, 6)
    torch.testing.assert_close(
        padded_attention(q, k[:, :, :1], v[:, :, :1]), v[:, :, :1].expand(-1, -1, 5, -1)
    )


def test_gradient():
    assert torch.autograd.gradcheck(padded_attention, tensors(2, 3, requires_grad=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_stays(dtype):
    q, k, v = (x.to(dtype) for x in tensors(4, 6))
    found = padded_attention(q, k, v)
    assert found.dtype == dtype and found.shape == (2, 3, 5, 6)
