import pytest
import torch
from torch.nn import functional as F

from dense.backbones.s2aformer import S2AFormer, StripAttention


def test_a_whole_strip_is_plain_attention():
    attention, x = StripAttention(12, 3, reduction=1, strip=4), torch.randn(2, 5, 4, 12)
    q, k, v = (
        layer(x).flatten(1, 2).unflatten(2, (3, 4)).transpose(1, 2)
        for layer in (attention.q, attention.k, attention.v)
    )
    wanted = attention.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    assert torch.allclose(attention(x), wanted.unflatten(1, (5, 4)), atol=1e-6)


@pytest.mark.parametrize("strip", [1, 2, 7])
def test_without_queries_each_position_gets_the_mean(strip):
    attention, x = StripAttention(8, 2, reduction=2, strip=strip), torch.randn(1, 6, 7, 8)
    torch.nn.init.zeros_(attention.q.weight)
    torch.nn.init.zeros_(attention.q.bias)
    reduced = attention.reduce_norm(attention.reduce(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    assert reduced.shape[1:3] == (3, 3)  # the last column fills no cell
    wanted = attention.proj(attention.v(reduced).mean((1, 2)))
    assert torch.allclose(attention(x), wanted.expand(1, 6, 7, 8), atol=1e-6)


def test_maps_smaller_than_a_cell():
    with pytest.raises(ValueError, match="sides of at least 4, which attention reduces by, found 3 x 9"):
        StripAttention(8, 2, reduction=4)(torch.randn(1, 3, 9, 8))
    model = S2AFormer.smallest().eval()
    assert model(torch.randn(1, 3, 29, 40)).shape == (1, 1000)
    with pytest.raises(ValueError, match="at least 29 x 29, found 28 x 40"):
        model(torch.randn(1, 3, 28, 40))


def test_bad_options():
    with pytest.raises(ValueError, match="num_heads must divide embed_dims 8, found 3"):
        StripAttention(8, 3)
    with pytest.raises(ValueError, match="reduction and strip must be at least 1, found 0 and 1"):
        StripAttention(8, 2, 0)
