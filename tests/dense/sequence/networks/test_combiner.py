import pytest
import torch
from torch.nn import functional as F

from dense.sequence.networks.combiner import Combiner, CombinerAttention, sinusoid
from pointsuite.engine.checkpoint import CheckpointError

ARCH = {"embed_dims": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0}


def ids_of(length=13, vocab=11, seed=0):
    return torch.randint(vocab, (2, length), generator=torch.Generator().manual_seed(seed))


def make(**options):
    torch.manual_seed(0)
    return Combiner(ARCH, 11, **{"segment": 4, **options}).eval()


@pytest.mark.parametrize("rowmajor", [False, True])
@torch.no_grad()
def test_published_kernels(rowmajor):
    """Kernels (D, heads, d) and (heads, d, D), biases (heads, d), against einsum."""
    torch.manual_seed(0)
    state = {f"{name}.kernel": torch.randn(6, 2, 3) for name in ("query", "key", "value")}
    state |= {f"{name}.bias": torch.randn(2, 3) for name in ("query", "key", "value")}
    output = "DenseGeneral_2" if rowmajor else "DenseGeneral_0"
    state |= {f"{output}.kernel": torch.randn(2, 3, 6), f"{output}.bias": torch.randn(6)}
    if rowmajor:
        state |= {
            "DenseGeneral_0.kernel": torch.randn(2, 3, 6),
            "DenseGeneral_1.kernel": torch.randn(6, 2, 3),
        }
        state |= {"LayerNorm_0.scale": torch.randn(6), "LayerNorm_0.bias": torch.randn(6)}
    kind = "rowmajor" if rowmajor else "fixed"
    model = CombinerAttention(6, 2, kind, 5, qkv_bias=True, proj_bias=True)
    model.load_state_dict(CombinerAttention.convert_official(state))
    x = torch.randn(1, 5, 6)  # one row: plain attention
    q, k, v = (
        torch.einsum("bnc,chd->bhnd", x, state[f"{name}.kernel"]) + state[f"{name}.bias"][None, :, None]
        for name in ("query", "key", "value")
    )
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    wanted = torch.einsum("bhnd,hdc->bnc", y, state[f"{output}.kernel"]) + state[f"{output}.bias"]
    torch.testing.assert_close(model(x), wanted, atol=1e-5, rtol=1e-5)


def test_kernels_that_lack_or_are_too_many():
    state = {f"{name}.kernel": torch.randn(6, 2, 3) for name in ("query", "value")}
    with pytest.raises(CheckpointError, match="lacks key.kernel"):
        CombinerAttention.convert_official(state)
    state |= {"key.kernel": torch.randn(6, 2, 3), "DenseGeneral_0.kernel": torch.randn(2, 3, 6)}
    with pytest.raises(CheckpointError, match="has no gate.kernel"):
        CombinerAttention.convert_official({**state, "gate.kernel": torch.randn(1)})


def test_sinusoid():
    found = sinusoid(torch.tensor([0, 3]), 6)
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0, 0, 1, 1, 1]))
    angles = torch.tensor([3.0, 3 / 100, 3 / 10_000])
    torch.testing.assert_close(found[1], torch.cat((angles.sin(), angles.cos())))


@torch.no_grad()
def test_options_of_the_tensorflow_version():
    options = {"positions": "learned", "activation": "gelu_tanh", "attention_bias": True, "norm_eps": 1e-5}
    model = make(factorization="mixture", summary="cumsum", tied=True, max_length=20, **options)
    layer = model.layers[0]
    assert layer.attn.qkv.bias is not None and layer.attn.proj.bias is not None and model.lm_head is None
    assert layer.norm1.eps == model.norm.eps == 1e-5
    ids = ids_of()
    other = make(factorization="mixture", tied=True, max_length=20, **options)
    other.load_state_dict(model.state_dict())
    assert not torch.allclose(model(ids), other(ids))  # sums are no maxima
    with pytest.raises(ValueError, match="found 21 tokens, but positions reach only 20"):
        model(ids_of(21))


@torch.no_grad()
@pytest.mark.parametrize("factorization", ["fixed", "vertical", "horizontal"])
def test_any_length(factorization):
    model = make(factorization=factorization)
    longest = model(ids_of(30))
    for length in (1, 4, 5, 29):
        torch.testing.assert_close(model(ids_of(30)[:, :length]), longest[:, :length], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bidirectional_attention_sees_both_ways():
    torch.manual_seed(0)
    x = torch.randn(1, 10, 6)
    for factorization in ("fixed", "mixture", "rowmajor", "logsparse"):
        model = CombinerAttention(6, 2, factorization, 4, causal=False)
        changed = x.clone()
        changed[:, 9] += 1
        assert (model(changed) != model(x)).any(-1).all(), factorization


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factorization": "learnable"}, "factorization must be one of .* found 'learnable'"),
        ({"positions": "rotary"}, "positions must be one of .* found 'rotary'"),
        ({"activation": "swish"}, "activation must be one of .* found 'swish'"),
    ],
)
def test_unknown_words(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
