"""The plain Transformer: its positions, its first weights, its size."""

import pytest
import torch

from dense.sequence.networks.transformer import CausalAttention, Transformer, rotate


def test_size_is_that_of_the_published_budget():
    """nanoGPT's 0.80 million: 4 layers of 128, 65 characters, 64 positions."""
    model = Transformer("tiny", 65, max_length=64)
    inner = 4 * (4 + 8) * 128**2 + (2 * 4 + 1) * 128  # layers, and norms without biases
    assert sum(p.numel() for p in model.parameters()) == inner + (65 + 64) * 128 == 804_096


def test_rotary_products_go_with_the_distance():
    q, k = torch.randn(2, 1, 8, dtype=torch.float64), torch.randn(2, 1, 8, dtype=torch.float64)

    def product(start):
        return (rotate(q, start + 3) * rotate(k, start)).sum(-1)

    torch.testing.assert_close(product(0), product(40), rtol=1e-5, atol=1e-5)  # angles are float32
    torch.testing.assert_close(rotate(q, 7).norm(dim=-1), q.norm(dim=-1))
    assert (product(0) - (q * k).sum(-1)).abs().max() > 1e-3


@torch.no_grad()
def test_attention_by_hand():
    """Without positions, equal keys: the mean of the values so far."""
    attention = CausalAttention(8, 2, bias=False)
    attention.qkv.weight[8:16] = 0
    attention.qkv.weight[16:] = torch.eye(8)
    attention.proj.weight.copy_(torch.eye(8))
    x = torch.randn(1, 5, 8)
    wanted = x.cumsum(1) / torch.arange(1.0, 6)[:, None]
    torch.testing.assert_close(attention(x)[0], wanted)


def test_branches_start_small():
    torch.manual_seed(0)
    model = Transformer("tiny")
    first = model.layers[0]
    assert first.attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for weight in (first.attn.proj.weight, first.fc2.weight):
        assert weight.std().item() == pytest.approx(0.02 / 8**0.5, rel=0.05)


def test_dropout_is_of_training_alone():
    torch.manual_seed(0)
    model, ids = Transformer("tiny", dropout=0.3), torch.arange(12)[None]
    assert not torch.equal(model.train()(ids), model(ids))
    assert torch.equal(model.eval()(ids), model(ids))
