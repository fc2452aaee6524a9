import pytest
import torch

from pointsuite.ops import inverse_distance_weights, three_interpolate


def test_by_hand():
    values = torch.tensor([[[1.0], [2.0], [4.0]]])
    found = three_interpolate(values, torch.tensor([[[0, 2]]]), torch.tensor([[[0.25, 0.75]]]))
    assert found.tolist() == [[[3.25]]]


def test_weights():
    weight = inverse_distance_weights(torch.tensor([[[1.0, 1.0, 2.0], [0.0, 1.0, 1.0]]]))
    torch.testing.assert_close(weight.sum(-1), torch.ones(1, 2))
    torch.testing.assert_close(weight[0, 0], torch.tensor([0.4, 0.4, 0.2]))
    assert weight[0, 1, 0] > 0.999999


def test_gradient():
    values = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(2, 5, 3, dtype=torch.float64, requires_grad=True)
    idx = torch.randint(0, 4, (2, 5, 3))
    assert torch.autograd.gradcheck(lambda v, w: three_interpolate(v, idx, w), (values, weight))


def test_shapes_and_compile():
    values, idx, weight = torch.randn(2, 4, 6), torch.randint(0, 4, (2, 5, 2)), torch.rand(2, 5, 2)
    found = three_interpolate(values, idx, weight)
    assert found.shape == (2, 5, 6)
    assert torch.equal(torch.compile(three_interpolate, backend="eager")(values, idx, weight), found)


@pytest.mark.parametrize(
    ("idx", "weight", "error", "message"),
    [
        (torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, 3), ValueError, "idx must have 3 axes"),
        (torch.zeros(2, 5, 3, dtype=torch.int64), torch.zeros(2, 5, 2), ValueError, "shape of idx"),
        (torch.zeros(2, 5, 3), torch.zeros(2, 5, 3), TypeError, "idx must be int64"),
        (torch.zeros(2, 5, 3, dtype=torch.int64), torch.zeros(2, 5, 3).double(), TypeError, "one dtype"),
    ],
)
def test_bad_input(idx, weight, error, message):
    with pytest.raises(error, match=message):
        three_interpolate(torch.zeros(2, 4, 6), idx, weight)
