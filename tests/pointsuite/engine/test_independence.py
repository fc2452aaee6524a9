import pytest
import torch
from torch import nn

from pointsuite.engine.independence import batch_effect, difference, find_tensors, in_float64


def test_networks_that_look_at_one_sample():
    network = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.BatchNorm1d(5))
    inputs = [torch.randn(4, 3)]
    assert batch_effect(network.eval(), inputs) < 1e-6
    assert batch_effect(network.double(), in_float64(inputs)) < 1e-14


def test_a_batch_that_counts_is_found():
    """Less the mean of the batch, a sample alone is 0: all of it changes."""
    x = torch.tensor([[1.0], [2.0], [3.0], [10.0]])
    assert batch_effect(lambda x: x - x.mean(0), [x]) == 1
    assert batch_effect(lambda x: (x, {"sum": x.sum() + x}), [x]) > 0.1


def test_outputs_whose_samples_are_another_axis():
    assert batch_effect(lambda x: x.mT, [torch.randn(4, 3)]) == 0
    assert batch_effect(lambda x: (x + x[:1]).mT, [1 + torch.rand(4, 3)]) > 0.01


def test_difference():
    wanted = {"a": torch.tensor([3.0, 4.0]), "b": [torch.tensor(2.0), torch.tensor(7)]}
    found = {"a": torch.tensor([3.0, 5.0]), "b": [torch.tensor(2.2), torch.tensor(0)]}
    assert len(find_tensors(wanted)) == 2  # whole numbers do not count
    assert difference(found, wanted) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="no tensor of floating point"):
        difference(torch.tensor(1), torch.tensor(1))
    with pytest.raises(ValueError, match="longer than argument 1"):
        difference([torch.ones(1)], [torch.ones(1), torch.ones(1)])
