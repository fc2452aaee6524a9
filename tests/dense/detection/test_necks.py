"""The pyramid with gated convolutions equals MMDetection's up to what it exchanges."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dense  # noqa: F401  before mmcv
from dense.registry import MODELS

necks = pytest.importorskip("mmdet.models.necks")

from dense.detection import GnConvFPN  # noqa: E402  where there is mmdet

CHANNELS = [8, 16, 32]


def build(**kwargs):
    torch.manual_seed(0)
    config = {"type": "dense.GnConvFPN", "in_channels": CHANNELS, "out_channels": 12, "num_outs": 3}
    neck = MODELS.build({**config, **kwargs})
    neck.init_weights()
    return neck


def maps():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, 16 >> i, 24 >> i, generator=generator) for i, c in enumerate(CHANNELS)]


@pytest.mark.parametrize("filter_size", [None, (32, 17)])
@pytest.mark.parametrize("project_out", [True, False])
def test_outputs_are_gated_sums_of_the_levels(filter_size, project_out):
    neck = build(filter_size=filter_size, project_out=project_out)
    plain = necks.FPN(CHANNELS, 12, 3)
    plain.lateral_convs = neck.lateral_convs
    plain.fpn_convs = nn.ModuleList(nn.Identity() for _ in CHANNELS)
    for found, level, conv in zip(neck(maps()), plain(maps()), neck.fpn_convs, strict=True):
        x = level.permute(0, 2, 3, 1)
        p, q = F.linear(x, conv.proj_in.weight, conv.proj_in.bias).split((6, 18), -1)
        first, second = conv.filter(q).split((6, 12), -1)
        y = conv.projections[0](p * first) * second
        assert conv.filter.scale == 1
        if project_out:
            y = conv.proj_out(y)
        torch.testing.assert_close(found, y.permute(0, 3, 1, 2))


def test_extra_levels_stay_convolutions():
    neck = build(num_outs=5, add_extra_convs="on_output")
    outputs = neck(maps())
    assert isinstance(neck, GnConvFPN)
    assert [tuple(y.shape[2:]) for y in outputs] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    torch.testing.assert_close(outputs[3], neck.fpn_convs[3](outputs[2]))


def test_gradients_and_initial_weights():
    neck = build(filter_size=(32, 17))
    sum((y * torch.randn_like(y)).sum() for y in neck(maps())).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    weight = neck.fpn_convs[0].proj_in.weight  # (24, 12)
    bound = (6 / 36) ** 0.5
    assert 0.9 * bound < weight.abs().max() <= bound
