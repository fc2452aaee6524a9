"""Maps with gates of positions and channels, summed: both paths against the formula, gradients, bad input."""

import pytest
import torch

from dense.ops import gated_sum


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_against_the_formula(backend):
    torch.manual_seed(0)
    tensors = torch.randn(2, 100, 3, 5), torch.randn(2, 100, 3), torch.randn(2, 3, 5)
    wanted = torch.einsum("bpnc,bpn,bnc->bpc", *tensors)
    torch.testing.assert_close(gated_sum(*tensors, backend=backend), wanted)
    turned = tensors[0].mT.contiguous().mT, *tensors[1:]
    torch.testing.assert_close(gated_sum(*turned, backend=backend), wanted)


def test_gradients():
    shapes = (2, 3, 2, 2), (2, 3, 2), (2, 2, 2)
    tensors = [torch.randn(shape).double().requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(gated_sum, tensors)


def test_bad_input():
    with pytest.raises(ValueError, match=r"found \(1, 4, 2, 3\), \(1, 4, 2\) and \(1, 3, 2\)"):
        gated_sum(torch.zeros(1, 4, 2, 3), torch.zeros(1, 4, 2), torch.zeros(1, 3, 2))
