import torch
from torch import nn

from dense.layers import run_block


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.weight = 0, nn.Parameter(torch.tensor(2.0))

    def forward(self, x, y=None):
        self.calls += 1
        return x.sin() * self.weight + (0 if y is None else y)


def test_the_inside_is_computed_again_for_the_gradient():
    x = torch.randn(3, requires_grad=True)
    for with_cp, calls in ((False, 1), (True, 2)):
        block = Counting()
        out = run_block(block, x, None, with_cp=with_cp)
        (grad,) = torch.autograd.grad(out.sum(), x)
        torch.testing.assert_close(grad, 2 * x.detach().cos())
        assert block.calls == calls


def test_nothing_is_kept_where_no_gradient_is_wanted():
    block = Counting()
    with torch.no_grad():
        assert torch.equal(
            run_block(block, torch.ones(2), torch.ones(2), with_cp=True), block(torch.ones(2)) + 1
        )
    assert block.calls == 2
