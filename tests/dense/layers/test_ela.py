"""ELA: against loops, its symmetry, its bounds, channels that do not divide."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.layers import ELA

EVERY = pytest.mark.parametrize("variant", "TBSL")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def noisy(layer):
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.2, 0.7)
    return layer.double()


def image(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@EVERY
@pytest.mark.parametrize("shared", [True, False])
def test_against_loops(variant, shared):
    layer = noisy(ELA(32, variant, shared))
    kernel, mixed, groups = {"T": (5, 1, 32), "B": (7, 1, 16), "S": (5, 8, 16), "L": (7, 8, 16)}[variant]
    x = image(2, 32, 4, 6)
    wanted = x.clone()
    for end, axis in (("_h", 3), ("_w", 2)):
        conv, norm = (getattr(layer, name if shared else name + end) for name in ("conv", "gn"))
        assert conv.weight.shape == (32, mixed, kernel) and norm.num_groups == groups
        strip = F.pad(x.mean(axis), (kernel // 2, kernel // 2))
        y = torch.zeros_like(x.mean(axis))
        for c in range(32):
            own = strip[:, c // mixed * mixed : (c // mixed + 1) * mixed]
            for i in range(y.shape[2]):
                y[:, c, i] = (own[..., i : i + kernel] * conv.weight[c]).sum((1, 2))
        gate = F.group_norm(y, groups, norm.weight, norm.bias).sigmoid()
        wanted *= gate[..., None] if axis == 3 else gate[:, :, None]
    torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize(("variant", "count"), [("T", 448), ("B", 576), ("S", 2688), ("L", 3712)])
def test_counts(variant, count):
    assert sum(p.numel() for p in ELA(64, variant).parameters()) == count


@EVERY
def test_a_transposed_map_gives_the_transposed_result(variant):
    layer, x = noisy(ELA(16, variant)), image(2, 16, 5, 9)
    torch.testing.assert_close(layer(x.mT), layer(x).mT)


def test_without_the_norms_weight_its_bias_decides():
    layer, x = noisy(ELA(16)), image(2, 16, 5, 9)
    nn.init.zeros_(layer.gn.weight)
    gate = layer.gn.bias.sigmoid()[:, None, None]
    torch.testing.assert_close(layer(x), x * gate**2)


@EVERY
def test_nothing_grows_and_images_do_not_meet(variant):
    layer, x = noisy(ELA(16, variant)), image(3, 16, 5, 9)
    y = layer(x)
    assert (y.abs() < x.abs()).all() and (y * x > 0).all()
    torch.testing.assert_close(torch.cat([layer(x[i : i + 1]) for i in range(3)]), y)


def test_directions_do_not_reach_into_each_other():
    """Both strips are one for the convolution; a change of one leaves the other's outputs before the norm."""
    layer = noisy(ELA(8, "L"))
    layer.gn = nn.Identity()
    x = image(1, 8, 3, 4)
    rows, _ = layer.gates(x)
    moved = x + torch.tensor([1.0, -1.0, 2.0, -2.0], dtype=x.dtype)  # means of rows stay
    again, columns = layer.gates(moved)
    torch.testing.assert_close(again, rows)
    assert (columns - layer.gates(x)[1]).abs().max() > 0.01


def test_memory_formats_agree():
    layer, x = noisy(ELA(16)), image(2, 16, 5, 9)
    y = layer(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, layer(x))


def test_means_of_bfloat16_are_exact():
    """A mean of 4096 values of 1 and one of 100, which sums in bfloat16 would lose."""
    layer = ELA(16).bfloat16()
    layer.conv = layer.gn = nn.Identity()
    layer.margin = 0
    x = torch.ones(1, 16, 2, 4096, dtype=torch.bfloat16)
    rows, _ = layer.gates(x)
    assert rows.dtype == torch.bfloat16 and (rows.float() - 1 / (1 + torch.e**-1)).abs().max() < 2e-3


@pytest.mark.parametrize(
    ("channels", "variant", "groups", "norms"),
    [(100, "S", 10, 4), (12, "L", 1, 4), (24, "T", 24, 8), (8, "S", 1, 8), (40, "B", 40, 8)],
)
def test_channels_that_do_not_divide(channels, variant, groups, norms):
    layer = ELA(channels, variant)
    assert layer.conv.groups == groups and layer.gn.num_groups == norms
    assert layer(torch.randn(2, channels, 4, 3)).isfinite().all()


def test_bad_input():
    with pytest.raises(ValueError, match=r"variant must be one of .*'T'.* found 'X'"):
        ELA(64, "X")
    with pytest.raises(ValueError, match="ELA-S wants at least 8 channels, found 7"):
        ELA(7, "S")


@EVERY
def test_gradient(variant):
    layer = noisy(ELA(8, variant))
    assert torch.autograd.gradcheck(layer, image(1, 8, 2, 3).requires_grad_(), fast_mode=True)
