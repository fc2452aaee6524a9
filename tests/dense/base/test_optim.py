"""Densities get options and schedules of their own."""

import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

import dense.base.optim  # noqa: F401
from dense.backbones import VGGCifar
from dense.base.optim import density_groups
from dense.layers import WeightedConv1d, WeightedConv2d, weight_convolutions
from dense.layers.weighted_conv import density_parameters
from dense.registry import PARAM_SCHEDULERS


class Net(nn.Module):
    """With names that begin as that of a density does."""

    def __init__(self):
        super().__init__()
        self.denoise = nn.Sequential(WeightedConv2d(3, 4, 3, trainable=True), nn.BatchNorm2d(4))
        self.hidden = WeightedConv1d(4, 4, 5, trainable=True)
        self.fixed = WeightedConv2d(4, 4, 3)
        self.density = nn.Linear(4, 2)


def names(module, group):
    found = {id(p): name for name, p in module.named_parameters()}
    return [found[id(p)] for p in group["params"]]


def wrapper(net, optimizer, **kwargs):
    config = {"constructor": "dense.DensityConstructor", "optimizer": optimizer, **kwargs}
    return build_optim_wrapper(net, config)


def test_groups():
    net = Net()
    net.fixed.requires_grad_(False)
    others, densities = density_groups(net, lr=1e-2)
    assert names(net, densities) == ["denoise.0.density", "hidden.density"]
    assert "density.weight" in names(net, others) and "fixed.weight" not in names(net, others)
    optimizer = torch.optim.AdamW([others, densities], lr=1e-4, weight_decay=1e-2)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(1e-4, 1e-2), (1e-2, 0.0)]


@pytest.mark.parametrize("paramwise", [None, {"density": {"lr": 1e-2}}, {"norm_decay_mult": 0.0}])
def test_constructor(paramwise):
    net = Net()
    optimizer = {"type": "AdamW", "lr": 1e-4, "weight_decay": 1e-2}
    groups = wrapper(net, optimizer, paramwise_cfg=paramwise).optimizer.param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    rate = 1e-2 if paramwise and "density" in paramwise else 1e-4
    for group in groups:
        name = names(net, group)[0]
        kind = name in ("denoise.0.density", "hidden.density")
        norm = name.startswith("denoise.1") and paramwise and "norm_decay_mult" in paramwise
        assert (group.get("density", False), group["lr"]) == (kind, rate if kind else 1e-4)
        assert group["weight_decay"] == (0 if kind or norm else 1e-2)


def test_constructor_with_decay_and_without_densities():
    optimizer = {"type": "SGD", "lr": 0.1}
    groups = wrapper(
        Net(), optimizer, paramwise_cfg={"density": {"weight_decay": 0.3}}
    ).optimizer.param_groups
    assert sorted({group["weight_decay"] for group in groups}) == [0, 0.3]
    groups = wrapper(nn.Linear(2, 2), optimizer).optimizer.param_groups
    assert not any(group.get("density") for group in groups)


def test_schedules_of_the_published_recipe():
    net = Net()
    optimizer = wrapper(
        net, {"type": "AdamW", "lr": 1e-4, "weight_decay": 1e-2}, paramwise_cfg={"density": {"lr": 1e-2}}
    )
    configs = [
        {"type": "dense.KindCosineAnnealingLR", "densities": False, "T_max": 100, "eta_min": 1e-6},
        {
            "type": "dense.KindCosineRestartLR",
            "densities": True,
            "periods": [10, 20, 40, 80],
            "restart_weights": [1, 1, 1, 1],
            "eta_min": 0,
        },
    ]
    schedulers = [PARAM_SCHEDULERS.build({**config, "optimizer": optimizer}) for config in configs]
    for epoch in range(100):
        start, period = next((s, p) for s, p in ((0, 10), (10, 20), (30, 40), (70, 80)) if epoch < s + p)
        rates = {
            False: 1e-6 + (1e-4 - 1e-6) * (1 + math.cos(math.pi * epoch / 100)) / 2,
            True: 1e-2 * (1 + math.cos(math.pi * (epoch - start) / period)) / 2,
        }
        for group in optimizer.optimizer.param_groups:
            assert group["lr"] == pytest.approx(rates[group.get("density", False)], rel=1e-6, abs=1e-12)
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def test_a_density_is_learned():
    """Targets made with one density, from weights that are given: training finds it."""
    torch.manual_seed(0)
    net = weight_convolutions(nn.Sequential(nn.Conv2d(3, 8, 3)), {3: [0.2]}, trainable=True)
    truth = nn.functional.conv2d
    net[0].weight.requires_grad_(False)
    a = torch.tensor([0.9, 1, 0.9])
    optimizer = torch.optim.Adam(density_groups(net, lr=0.05)[1:])
    for _ in range(150):
        x = torch.randn(4, 3, 6, 6)
        target = truth(x, net[0].weight * torch.outer(a, a), net[0].bias)
        loss = (net(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert net[0].density.item() == pytest.approx(0.9, abs=0.01)


def test_a_step_moves_both_kinds():
    net = VGGCifar({"embed_dims": (4,), "depths": (2,)}, density={3: [0.7]}, trainable_density=True)
    optimizer = wrapper(net, {"type": "SGD", "lr": 0.1})
    before = [p.detach().clone() for p in (net.stages[0][0].conv.weight, *density_parameters(net))]
    optimizer.update_params(net(torch.randn(2, 3, 8, 8))[-1].square().mean())
    after = (net.stages[0][0].conv.weight, *density_parameters(net))
    assert all((b != a).any() for b, a in zip(before, after, strict=True))
