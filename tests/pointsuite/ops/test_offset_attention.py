import pytest
import torch

from pointsuite.ops import offset_attention


def arguments(shape=(3, 4, 5, 8)):
    torch.manual_seed(0)
    x = torch.randn(*shape, dtype=torch.float64).requires_grad_()
    projected = torch.randn(*shape[:-1], 4 + 8, dtype=torch.float64).requires_grad_()
    return x, projected


@pytest.mark.parametrize("axis", [-3, -2])
def test_gradcheck(axis):
    assert torch.autograd.gradcheck(lambda *t: offset_attention(*t, axis), arguments((2, 3, 4, 4)))


def test_by_hand():
    """Two centres of one neighbour: P is 1, A is 1/2 each."""
    x = torch.zeros(1, 2, 1, 1)
    projected = torch.tensor([[[[0.0, 0, 3]], [[0.0, 0, 5]]]])
    assert offset_attention(x, projected, -3).flatten().tolist() == [-1.5, -2.5]
    assert offset_attention(x, projected, -2).flatten().tolist() == [-3, -5]


@pytest.mark.parametrize("axis", [-3, -2])
def test_strided_input(axis):
    x, projected = arguments()
    strided = (t.transpose(1, 3).contiguous().transpose(1, 3) for t in (x, projected))
    torch.testing.assert_close(offset_attention(*strided, axis), offset_attention(x, projected, axis))
