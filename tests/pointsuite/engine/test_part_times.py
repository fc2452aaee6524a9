import time

import pytest
import torch
from torch import nn

from pointsuite.engine.part_times import time_parts


class Slow(torch.autograd.Function):
    """Sleeps for a while forwards, and for longer backwards."""

    @staticmethod
    def forward(ctx, x, seconds):
        ctx.seconds = 2 * seconds
        time.sleep(seconds)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        time.sleep(ctx.seconds)
        return grad.clone(), None


class Sleeper(nn.Module):
    def __init__(self, seconds, inner=None):
        super().__init__()
        self.seconds, self.inner = seconds, inner

    def forward(self, x):
        x = Slow.apply(x, self.seconds)
        return x if self.inner is None else self.inner(x)


def test_parts_take_their_own_time_forwards_and_backwards():
    inner = Sleeper(0.1)
    model = Sleeper(0.03, inner)
    weight = torch.ones(3, requires_grad=True)

    def call():
        (torch.cumsum(model(weight), 0) ** 2).sum().backward()

    parts = time_parts(call, {model: "outer", inner: "inner"}, {"aten::cumsum": "sum"})
    assert set(parts) == {"outer", "inner", "sum", "rest"}
    for name, seconds in (("outer", 0.03), ("inner", 0.1)):
        forward, backward = parts[name]
        assert 1e3 * seconds <= forward and 2e3 * seconds <= backward
    # what sleeps in one part is not in another: outer sleeps for 30 ms, then 60
    assert parts["outer"][0] < parts["outer"][1] and parts["inner"][0] < parts["inner"][1]
    assert parts["sum"][0] > 0 and parts["sum"][1] > 0


def test_hooks_are_gone_after_an_error():
    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="shapes"):
        time_parts(lambda: model(torch.ones(1, 3)), {model: "all"}, {})
    assert not model._forward_hooks and not model._forward_pre_hooks
