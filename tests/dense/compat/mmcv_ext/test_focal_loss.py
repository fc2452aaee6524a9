import math

import pytest
import torch
from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss

TARGET = torch.tensor([0, 2, 3, 1, 3])  # 3 is background


def make():
    return torch.randn(5, 3, dtype=torch.float64) * 3


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.6), (0.0, 0.5)])
def test_sigmoid(gamma, alpha):
    logits = make()
    wanted = torch.empty_like(logits)
    for i, c in ((i, c) for i in range(5) for c in range(3)):
        p = 1 / (1 + math.exp(-logits[i, c]))
        if TARGET[i] == c:
            wanted[i, c] = -alpha * (1 - p) ** gamma * math.log(p)
        else:
            wanted[i, c] = -(1 - alpha) * p**gamma * math.log(1 - p)
    found = sigmoid_focal_loss(logits, TARGET, gamma, alpha, None, "none")
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(sigmoid_focal_loss(logits, TARGET, gamma, alpha), wanted.sum() / 5)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.6), (0.0, 0.5)])
def test_softmax(gamma, alpha):
    logits, target = make(), TARGET.clamp(max=2)
    p = torch.tensor([(row.exp() / row.exp().sum())[t] for row, t in zip(logits, target, strict=True)])
    wanted = -alpha * (1 - p.double()) ** gamma * p.double().log()
    found = softmax_focal_loss(logits, target, gamma, alpha, None, "none")
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("gamma", [2.0, 1.5])
def test_gradient(gamma, reduction):
    logits = make().requires_grad_()
    weight = torch.rand(3, dtype=torch.float64) + 0.5
    for loss in (sigmoid_focal_loss, softmax_focal_loss):
        for w in (None, weight):
            assert torch.autograd.gradcheck(
                lambda x, loss=loss, w=w: loss(x, TARGET, gamma, 0.25, w, reduction), (logits,)
            )


def test_weight():
    logits, weight = make(), torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)
    for loss in (sigmoid_focal_loss, softmax_focal_loss):
        ratio = loss(logits, TARGET, 2.0, 0.25, weight, "none") / loss(
            logits, TARGET, 2.0, 0.25, None, "none"
        )
        rows = ratio.view(5, -1)[[0, 1, 3]]
        torch.testing.assert_close(rows, torch.tensor([[2.0], [5.0], [3.0]]).double().expand_as(rows))
    assert loss(logits, TARGET, 2.0, 0.25, None, "none")[2] == 0  # no class, no loss


def test_extreme_logits():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0, 0]), 0.5, 0.25, None, "none")
    torch.testing.assert_close(loss, torch.tensor([[0.0, 0.0], [50.0, 150.0]]))
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0], [-0.25, 0.75]]))
