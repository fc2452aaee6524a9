"""Attention of one token, and published weights of queries, keys and values."""

import pytest
import torch
from torch.nn import functional as F

from dense.layers import ClassAttention, SelfAttention, record_attention
from dense.layers.attention import join_qkv
from pointsuite.engine.checkpoint import CheckpointError

from ..memory import LargestTensor
from ..noise import noisy


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_class_attention_is_the_first_row_of_self_attention(qkv_bias):
    attn = noisy(ClassAttention(12, 3, qkv_bias=qkv_bias))
    x = torch.randn(2, 7, 12, dtype=torch.float64, requires_grad=True)
    inputs = (x, *attn.parameters())
    found, wanted = attn(x), SelfAttention.forward(attn, x)[:, :1]
    torch.testing.assert_close(found, wanted)
    gradients = (torch.autograd.grad(y.sin().sum(), inputs) for y in (found, wanted))
    torch.testing.assert_close(*gradients)
    with record_attention(attn) as recorded:
        attn(x), SelfAttention.forward(attn, x)
    torch.testing.assert_close(recorded[""][0], recorded[""][1][:, :, :1])


def test_equal_logits_take_the_mean_of_values():
    attn = noisy(ClassAttention(12, 3))
    with torch.no_grad():
        attn.qkv.weight[:24] = 0
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    values = F.linear(x, attn.qkv.weight[24:], attn.qkv.bias[24:])
    torch.testing.assert_close(attn(x), attn.proj(values.mean(1, keepdim=True)))


@torch.no_grad()
def test_class_attention_holds_no_keys_or_values():
    attn = ClassAttention(8, 2).eval()
    x = torch.randn(2, 500, 8)
    with LargestTensor() as largest:
        attn(x)
    assert largest.numel <= x.numel()


def test_layers_of_an_attention_become_one():
    state = {
        "a.attn.q.weight": torch.ones(2, 3),
        "a.attn.kv.weight": torch.zeros(4, 3),
        "a.mlp.q.bias": torch.ones(1),
    }
    joined = join_qkv(state, ("q", "kv"), r".*\.attn")
    assert joined.keys() == {"a.attn.qkv.weight", "a.mlp.q.bias"}
    assert torch.equal(joined["a.attn.qkv.weight"], torch.cat((torch.ones(2, 3), torch.zeros(4, 3))))


@pytest.mark.parametrize("left", ["q", "kv"])
def test_attention_that_lacks_a_layer(left):
    missing = {"q": "kv", "kv": "q"}[left]
    with pytest.raises(CheckpointError, match=rf"a\.{left}\.weight lacks a\.{missing}\.weight"):
        join_qkv({f"a.{left}.weight": torch.ones(2, 3)}, ("q", "kv"))
