"""Kernelised attention as a layer: tables, features, weights on request, bad input."""

import pytest
import torch
from torch import nn

from dense.layers import KernelizedAttention, record_attention


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def layer(**options):
    made = KernelizedAttention(8, 2, num_features=6, **options).double().eval()
    nn.init.normal_(made.bias_table)
    return made


def test_shorter_sequences_use_the_middle_of_the_table():
    x = torch.randn(2, 5, 8).double()
    long, short = layer(length=9, causal=True), layer(length=5, causal=True)
    state = {**long.state_dict(), "bias_table": long.bias_table[:, 4:13]}
    short.load_state_dict(state)
    torch.testing.assert_close(long(x), short(x))
    with pytest.raises(ValueError, match="found 10 tokens, but the table reaches only 9"):
        long(torch.randn(1, 10, 8).double())


def test_other_grids_keep_the_factors_of_near_offsets():
    attn = layer(grid=(3, 4))
    table = attn.find_table(10, (2, 5))
    assert table.shape == (2, 3, 9)
    assert torch.equal(table[:, :, 1:8], attn.bias_table[:, 1:4])
    assert torch.equal(table[:, :, 0], table[:, :, 1]) and torch.equal(table[:, :, 8], table[:, :, 7])
    assert attn(torch.randn(1, 10, 8).double(), (2, 5)).isfinite().all()
    with pytest.raises(ValueError, match=r"a table of a grid \(3, 4\) wants the grid of its 12 tokens"):
        attn(torch.randn(1, 12, 8).double())


@pytest.mark.parametrize("options", [{"length": 7}, {"clip": 2, "causal": True}])
def test_recorded_weights_are_those_that_count(options):
    attn, x = layer(**options), torch.randn(2, 7, 8).double()
    with record_attention(attn) as recorded:
        found = attn(x)
    (weights,) = recorded[""]
    torch.testing.assert_close(found, attn(x))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 7).double())
    assert (weights >= 0).all() and ((weights.triu(1) == 0).all() or "causal" not in options)


def test_features_are_drawn_by_seed_and_saved():
    first, second = layer(length=4, seed=3), layer(length=4, seed=4)
    assert torch.equal(first.features, layer(length=4, seed=3).features)
    assert not torch.equal(first.features, second.features)
    assert "features" in first.state_dict() and not first.features.requires_grad
    second.redraw_features(3)
    assert torch.equal(first.features, second.features)


def test_shared_table():
    first = layer(length=4)
    second = KernelizedAttention(8, 2, length=4, table=first.bias_table)
    assert second.bias_table is first.bias_table
    with pytest.raises(ValueError, match=r"a shared table must be \(2, 9\), found \(2, 7\)"):
        KernelizedAttention(8, 2, length=5, table=first.bias_table)


@pytest.mark.parametrize("options", [{}, {"length": 3, "clip": 2}, {"length": 4, "grid": (2, 2)}])
def test_one_size_of_the_table(options):
    with pytest.raises(ValueError, match="exactly one of length, grid and clip sizes the table"):
        KernelizedAttention(8, 2, **options)
