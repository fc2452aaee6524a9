"""Skeletons have the names and shapes of networks, and no numbers."""

import torch
from torch import nn

from pointsuite.engine.skeleton import skeletons


def build():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5), nn.MultiheadAttention(4, 2)
    )
    nn.init.trunc_normal_(network[2].weight, std=0.02)
    network[0].weight.data.mul_(2)
    return network


def test_names_shapes_and_types():
    wanted = build().state_dict()
    with skeletons():
        found = build().state_dict()
    assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
        k: (v.shape, v.dtype) for k, v in wanted.items()
    }
    assert all(value.is_meta for value in found.values())


def test_what_is_built_after_it_has_numbers():
    with skeletons():
        build()
    torch.manual_seed(0)
    assert build()[2].weight.std() > 0.005 and not build()[2].weight.is_meta
