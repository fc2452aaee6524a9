import pytest
import torch

from pointsuite.ops import gather_points


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", [(4,), (4, 2), (2, 2, 2)])
def test_equals_indexing(batch, shape):
    values, idx = torch.randn(batch, 7, 5), torch.randint(0, 7, (batch, *shape))
    found = gather_points(values, idx)
    assert found.shape == (batch, *shape, 5)
    for b in range(batch):
        assert torch.equal(found[b], values[b][idx[b]])


def test_gradient():
    values = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    idx = torch.tensor([[[0, 0], [3, 1]], [[2, 2], [2, 0]]])  # repeated rows add up
    assert torch.autograd.gradcheck(lambda v: gather_points(v, idx), values)


def test_dtypes_are_kept():
    for dtype in (torch.float64, torch.bfloat16):
        assert (
            gather_points(torch.ones(1, 2, 3, dtype=dtype), torch.zeros(1, 1, dtype=torch.int64)).dtype
            == dtype
        )


def test_compiles():
    values, idx = torch.randn(2, 7, 5), torch.randint(0, 7, (2, 4))
    compiled = torch.compile(gather_points, backend="eager")
    assert torch.equal(compiled(values, idx), gather_points(values, idx))


@pytest.mark.parametrize(
    ("values", "idx", "error", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(1, 2, dtype=torch.int64), ValueError, r"\(B, N, C\), found \(4, 3\)"),
        (torch.zeros(2, 4, 3), torch.zeros(1, 2, dtype=torch.int64), ValueError, "same number of clouds"),
        (torch.zeros(2, 4, 3), torch.zeros(2, 2, dtype=torch.int32), TypeError, "idx must be int64"),
        (torch.zeros(2, 4, 3), torch.full((2, 2), 4), IndexError, r"\[0, 4\), found 4 to 4"),
        (torch.zeros(2, 4, 3), torch.full((2, 2), -1), IndexError, r"\[0, 4\), found -1 to -1"),
        (torch.zeros(1, 4, 3), torch.full((1, 2), -1), IndexError, "out of range"),
    ],
)
def test_bad_input(values, idx, error, message):
    with pytest.raises(error, match=message):
        gather_points(values, idx)
