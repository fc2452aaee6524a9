import torch
from torch import nn

from dense.layers import init_normal


def test_kinds_and_spread():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(100, 200), nn.Conv2d(3, 4, 3), nn.Linear(200, 100, bias=False))
    convolution = network[1].weight.clone()
    init_normal(network, nn.Linear, std=0.05)
    for linear in (network[0], network[2]):
        assert abs(linear.weight.std() - 0.05) < 1e-3 and abs(linear.weight.mean()) < 1e-3
    assert not network[0].bias.any()
    assert torch.equal(network[1].weight, convolution)
    init_normal(network, nn.Linear, nn.Conv2d)
    assert not torch.equal(network[1].weight, convolution) and not network[1].bias.any()
    assert abs(network[0].weight.std() - 0.02) < 1e-3
