import pytest
import torch

from dense.ops import reversed_attention
from tests.dense.memory import LargestTensor


def tensors(count=9, width=4, channels=3, dtype=torch.float64, **kwargs):
    torch.manual_seed(0)
    q, k = (torch.randn(2, 3, count, width).to(dtype) for _ in "qk")
    v, sent = torch.randn(2, 3, count, channels).to(dtype), torch.rand(2, 3, count).to(dtype)
    return tuple(t.requires_grad_(**kwargs) if kwargs else t for t in (q, k, v, sent))


@pytest.mark.parametrize("count", [1, 2, 9, 30])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_sender_by_sender(count, scale):
    q, k, v, sent = tensors(count)
    wanted = torch.zeros_like(v)
    for j in range(count):
        logits = (k * q[:, :, j : j + 1]).sum(-1) * (0.5 if scale is None else scale)
        given = sent[:, :, j, None] * v[:, :, j]
        wanted += logits.softmax(-1)[..., None] * given[:, :, None]
    torch.testing.assert_close(reversed_attention(q, k, v, sent, scale), wanted)


def test_what_is_sent_is_what_arrives():
    q, k, v, sent = tensors()
    found = reversed_attention(q, k, v, sent)
    torch.testing.assert_close(found.sum(2), (sent[..., None] * v).sum(2))


def test_gradient():
    assert torch.autograd.gradcheck(reversed_attention, tensors(5, 2, 2, requires_grad=True))


@pytest.mark.parametrize("grad", [False, True])
def test_pairs_are_never_held_all_at_once(grad):
    q, k, v, sent = tensors(400, dtype=torch.float32, requires_grad=grad)
    with LargestTensor() as largest:
        y = reversed_attention(q, k, v, sent)
        if grad:
            y.sum().backward()
    assert 2 * 3 * 400 * 4 < largest.numel <= 2 * 3 * 400 * 400 / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_is_that_of_values(dtype):
    q, k, v, sent = tensors(dtype=dtype)
    assert reversed_attention(q, k, v, sent.float()).dtype == dtype


def test_shapes_must_fit():
    q, k, v, sent = tensors()
    with pytest.raises(ValueError, match=r"found \(2, 3, 9, 4\), .*\(2, 3, 8\)"):
        reversed_attention(q, k, v, sent[..., 1:])
    with pytest.raises(ValueError, match=r"\(B, heads, N, d\)"):
        reversed_attention(q, k[:, :, 1:], v, sent)
