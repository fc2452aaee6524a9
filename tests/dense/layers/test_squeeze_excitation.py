import torch
from torch.nn import functional as F

from dense.layers import SqueezeExcitation, channel_gates


def test_gates_by_hand():
    torch.manual_seed(0)
    module = SqueezeExcitation(6, 3).double()
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    means = x.mean((2, 3))
    hidden = F.linear(means, module.fc1.weight[:, :, 0, 0], module.fc1.bias).relu()
    gates = F.linear(hidden, module.fc2.weight[:, :, 0, 0], module.fc2.bias).sigmoid()
    torch.testing.assert_close(module(x), x * gates[:, :, None, None])
    torch.testing.assert_close(channel_gates(x, module.fc1, module.fc2), gates[:, :, None, None])


def test_gradient():
    torch.manual_seed(0)
    module = SqueezeExcitation(3, 2).double()
    assert torch.autograd.gradcheck(module, torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True))
