"""What ``strategy="fsdp"`` takes and refuses, and which parts it makes; test_distributed.py has its runs."""

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from torch import nn

from pointsuite.engine.errors import UsageError
from pointsuite.engine.runner import Runner
from pointsuite.engine.sharding import (
    Fsdp,
    check_optimizer,
    choose_parts,
    explain_split,
    gather,
    read_strategy,
    split_like,
)

from .toy import make_config


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, None),
        ("ddp", None),
        ({"type": "ddp"}, None),
        ("fsdp", Fsdp()),
        ({"type": "fsdp", "min_numbers": 7}, Fsdp(7)),
    ],
)
def test_read_strategy(value, wanted):
    assert read_strategy(value) == wanted


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fsdp2", "strategy: found 'fsdp2', wanted 'ddp', 'fsdp' or dict"),
        (True, "strategy: found True"),
        ({"min_numbers": 7}, "wanted 'ddp', 'fsdp' or dict"),
        ({"type": "ddp", "min_numbers": 7}, "wanted 'ddp', 'fsdp' or dict"),
        (
            {"type": "fsdp", "min_number": 7},
            "strategy.min_number: no such option.*min_numbers",
        ),
        ({"type": "fsdp", "min_numbers": 0}, "strategy.min_numbers: found 0, wanted a whole number from 1"),
        ({"type": "fsdp", "min_numbers": "9"}, "strategy.min_numbers: found '9', wanted a whole number"),
    ],
)
def test_strategies_that_mean_nothing(value, message):
    with pytest.raises(UsageError, match=message):
        read_strategy(value)


class Block(nn.Module):
    def __init__(self, weight=None):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU())
        if weight is not None:
            self.inner[0].weight = weight


class Net(nn.Module):
    used_in_parts = ("opened",)

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(Block(), Block()) for _ in range(2))
        self.alone = Block()  # of no container: its parent may do with it what it wants
        self.opened = nn.ModuleList([Block()])
        self.tied = nn.ModuleList([Block(self.alone.inner[0].weight)])
        self.nested = nn.ModuleList([nn.TransformerEncoderLayer(4, 1, 4)])


def test_parts():
    net = Net()
    blocks = [block for stage in net.stages for block in stage]
    assert choose_parts(net, 16) == [*blocks, net.nested[0]]
    assert choose_parts(net, 17) == [net.nested[0]]
    assert choose_parts(net, 10_000) == []


def test_parts_in_parts_count_once():
    outer = Block()
    outer.more = nn.ModuleList([Block()])
    assert choose_parts(nn.ModuleList([outer]), 16) == [outer.more[0], outer]
    assert choose_parts(nn.ModuleList([outer]), 17) == [outer]  # with the inner one, which is too small


def wrap(kind, wrapper=OptimWrapper, **options):
    return wrapper(optimizer=kind([nn.Parameter(torch.ones(2, 2))], **options))


def test_optimisers_that_need_whole_parameters():
    class Own(torch.optim.AdamW):
        pass

    for kind in (torch.optim.AdamW, torch.optim.SGD, Own):
        check_optimizer(wrap(kind, lr=0.1))
    with pytest.raises(UsageError, match="optimizer: found LBFGS, wanted one of SGD, .*AdamW"):
        check_optimizer(wrap(torch.optim.LBFGS))
    with pytest.raises(UsageError, match="found Adafactor"):
        check_optimizer(wrap(torch.optim.Adafactor))
    with pytest.raises(UsageError, match="found OptimWrapperDict, wanted one OptimWrapper"):
        check_optimizer(OptimWrapperDict(a=wrap(torch.optim.SGD), b=wrap(torch.optim.SGD)))


def test_scaled_loss(monkeypatch):
    wrapper = wrap(torch.optim.SGD)
    wrapper.__class__ = AmpOptimWrapper
    wrapper.loss_scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(UsageError, match="found a scaled loss, as float16 has it, wanted bfloat16"):
        check_optimizer(wrapper)


@pytest.mark.parametrize("option", [{"model_wrapper_cfg": {"type": "X"}}, {"compile": True}])
def test_options_that_do_not_go_with_it(tmp_path, monkeypatch, option):
    runner = Runner.from_cfg(make_config(tmp_path, strategy="fsdp"))
    runner.cfg.merge_from_dict(option)
    monkeypatch.setattr(Runner, "distributed", True)
    with pytest.raises(UsageError, match=f"strategy 'fsdp': found {next(iter(option))}="):
        runner.wrap_model(None, runner.model)


def test_errors_that_follow_from_splitting():
    mixed = RuntimeError("aten.mm.default: got mixed torch.Tensor and DTensor, need to convert")
    assert "used_in_parts" in explain_split(mixed)
    assert "NumPy" in explain_split(RuntimeError("Trying to resize storage that is not resizable"))
    assert explain_split(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_what_is_whole_stays_as_it_is():
    state = {"a": torch.ones(2), "b": [1, (torch.zeros(1), "text")]}
    found = gather(state, keep=False)
    assert found["a"] is state["a"] and found["b"][1][0] is state["b"][1][0] and found["b"][1][1] == "text"
    assert split_like(state["a"], nn.Parameter(torch.ones(2))) is state["a"]
