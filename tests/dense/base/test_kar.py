"""Kar2 and Kar3: steps by signs, and by name from a config."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

import dense  # noqa: F401  registers them
from dense.base.kar import Kar2, Kar3


@pytest.mark.parametrize("cls, count", [(Kar2, 2), (Kar3, 3)])
def test_steps(cls, count):
    """The first moves all by the rate, as no mean has a sign yet; with one gradient the others by more."""
    torch.manual_seed(0)
    start = torch.randn(4, 3)
    parameter = nn.Parameter(start.clone())
    optimizer = cls([parameter], lr=0.25)
    parameter.grad = gradient = torch.randn(4, 3)
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), start - 0.25 * gradient.sign())
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), start - 0.25 * (1 + count) * gradient.sign())


def test_means_are_those_of_earlier_gradients():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = Kar3([parameter], lr=1.0)
    found = []
    for gradient in (1.0, -1.0, -1.0, -1.0):
        before, parameter.grad = parameter.item(), torch.tensor([gradient])
        optimizer.step()
        found.append(parameter.item() - before)
    # means before each step: (0, 0), (0.5, 0.05), (-0.25, -0.0025), (-0.625, ...)
    assert found == [-1, 1 - 1 - 1, 3, 3]


def test_state_comes_back():
    def run(steps, optimizer, parameter):
        for i in steps:
            parameter.grad = torch.tensor([(-1.0) ** i, 0.5 - i])
            optimizer.step()
        return parameter.detach().clone()

    whole = nn.Parameter(torch.ones(2))
    wanted = run(range(6), Kar3([whole], lr=0.1), whole)
    first = nn.Parameter(torch.ones(2))
    optimizer = Kar3([first], lr=0.1)
    second = nn.Parameter(run(range(3), optimizer, first))
    other = Kar3([second], lr=0.7)
    other.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(run(range(3, 6), other, second), wanted)


@pytest.mark.parametrize("scope, name", [("dense", "Kar3"), ("mmengine", "dense.Kar2")])
def test_by_name(scope, name):
    cfg = Config({"optim_wrapper": {"optimizer": {"type": name, "lr": 0.5}}})
    with DefaultScope.overwrite_default_scope(scope):
        wrapper = build_optim_wrapper(nn.Linear(2, 2), cfg.optim_wrapper)
    assert type(wrapper.optimizer).__name__ == name.rpartition(".")[2]
    assert wrapper.optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    "options, message",
    [({"lr": -1}, "lr must not be negative, found -1"), ({"betas": (0.5, 1.0)}, r"found \(0.5, 1.0\)")],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Kar3([nn.Parameter(torch.zeros(1))], **options)
