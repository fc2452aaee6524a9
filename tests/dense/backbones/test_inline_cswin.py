"""InLine-CSWin: its stripes, the pooling of its kernels, and published weights."""

import pytest
import torch

from dense.backbones import InLineCSWin
from dense.backbones.inline_cswin import InjectiveBlock, StripeAttention
from dense.layers import MLP, InjectiveAttention
from dense.registry import ZOO

from ..noise import noisy
from .inline import published, without


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_published_weights_are_found():
    state = published("cswin_tiny_224")
    assert ZOO.identify(state).name == "inline_cswin_tiny"
    found = ZOO.identify(without(state, "stage2.3.")).options["arch"]
    assert found["depths"] == (2, 3, 18, 1) and found["num_inline"] == (2, 3, 0, 0)


def naive_stripes(module, x):
    """Stripe by stripe: half of the heads in columns, the others in rows."""
    half, heads = x.shape[-1] // 2, module.num_heads
    q, k, v = module.qkv(x).chunk(3, -1)
    y = torch.empty_like(x)
    for branch, axis in ((0, 2), (1, 1)):
        part = slice(branch * half, (branch + 1) * half)
        for start in range(0, x.shape[axis], module.stripe):
            at = [slice(None), slice(None), slice(None), part]
            at[axis] = slice(start, start + module.stripe)
            tokens = [
                t[tuple(at)].flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v)
            ]
            weights = (tokens[0] @ tokens[1].mT * tokens[0].shape[-1] ** -0.5).softmax(-1)
            values = v[tuple(at)]
            local = module.lepe[branch](values.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            mixed = (weights @ tokens[2]).transpose(1, 2).flatten(2).view(values.shape)
            y[tuple(at)] = mixed + local
    return module.proj(y)


@pytest.mark.parametrize("size", [(6, 6), (7, 4), (2, 5)])
def test_stripes_against_loops(size):
    module = noisy(StripeAttention(8, 4, 3))
    x = torch.randn(2, *size, 8).double()
    torch.testing.assert_close(module(x), naive_stripes(module, x))


def test_kernels_come_from_what_is_not_normed():
    attn = InjectiveAttention(8, 2, lepe=True)
    block = noisy(InjectiveBlock(8, attn, MLP(8, 16)))
    x = torch.randn(2, 3, 4, 8).double()
    after = x + attn(block.norm1(x), pooled=x.mean((1, 2)))
    torch.testing.assert_close(block(x), after + block.mlp(block.norm2(after)))
    assert not torch.allclose(attn(block.norm1(x)), attn(block.norm1(x), pooled=x.mean((1, 2))))


def test_heads_must_be_even():
    with pytest.raises(ValueError, match="be even, found 3"):
        StripeAttention(12, 3, 7)


def test_any_size():
    arch = {**InLineCSWin.archs["tiny"], "depths": (1, 1, 1, 1)}
    y = InLineCSWin(arch).eval()(torch.randn(1, 3, 70, 131))
    assert [m.shape[2:] for m in y] == [(17, 33), (9, 17), (5, 9), (3, 5)]
    assert all(m.isfinite().all() for m in y)
    with pytest.raises(ValueError, match="at least 3 x 3, found 2 x 9"):
        InLineCSWin(arch)(torch.zeros(1, 3, 2, 9))
