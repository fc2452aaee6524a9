"""TransNormerLLM: its parts, its published names, and tokens that all cost the same."""

import copy
from time import perf_counter

import pytest
import torch

import dense
from dense.sequence.networks.transnormer import LRPE, ExampleAttention, TransNormer, layer_slopes
from pointsuite.engine.checkpoint import CheckpointError

from ...memory import LargestTensor

ARCH = {
    "embed_dims": 32,
    "hidden_dims": 48,
    "glu_dims": 24,
    "depth": 3,
    "num_heads": 4,
    "vocab_size": 30,
}


def made(**options):
    torch.manual_seed(0)
    return TransNormer(ARCH, **options).eval()


def official(model, head=True):
    state = {(key if key == "lm_head.weight" else f"model.{key}"): x for key, x in model.state_dict().items()}
    if head:
        state.setdefault("lm_head.weight", model.embed_tokens.weight.detach().clone())
    return state


@torch.no_grad()
def test_speaking_equals_reading():
    """Token by token, over the edges of chunks, in float32."""
    model = dense.create_model("transnormer_tiny").eval()
    ids = torch.randint(256, (2, 150), generator=torch.Generator().manual_seed(0))
    wanted, state = model(ids), model.new_state(2)
    logits, state = model(ids[:, :120], state=state)
    found = [logits]
    for token in ids[:, 120:].split(1, 1):
        logits, state = model(token, state=state)
        found.append(logits)
    torch.testing.assert_close(torch.cat(found, 1), wanted, rtol=0, atol=1e-4)


@torch.no_grad()
def test_far_tokens_cost_as_much_as_near_ones():
    model, token = made(lrpe=(0, 2)), torch.tensor([[3]])
    _, near = model(torch.arange(10)[None], state=model.new_state())
    far = near._replace(length=100_000)
    sizes, seconds = [], []
    for state in (near, far):
        assert [x.shape for x in state.layers] == [(1, 4, 24, 12), (1, 4, 12, 12), (1, 4, 24, 12)]
        with LargestTensor() as largest:
            _, after = model(token, state=state)
        assert after.length == state.length + 1
        sizes.append((largest.numel, sum(x.numel() for x in after.layers)))
    rounds = [[], []]
    for _ in range(30):
        for times, state in zip(rounds, (near, far), strict=True):
            began = perf_counter()
            model(token, state=state)
            times.append(perf_counter() - began)
    seconds = [min(times) for times in rounds]
    assert sizes[0] == sizes[1]
    assert seconds[1] < 1.5 * seconds[0]


@torch.no_grad()
def test_places_of_far_tokens_are_exact():
    """Products of queries and keys go with the distance alone, also where float32 has no tenths left."""
    lrpe = LRPE(2, 4)
    q, k = torch.randn(1, 2, 1, 4), torch.randn(1, 2, 1, 4)

    def product(start):
        return (lrpe(start + 5, q)[0] * lrpe(start, k)[0]).sum()

    torch.testing.assert_close(product(1_000_003), product(0), rtol=1e-5, atol=1e-5)
    distance = (lrpe.theta[:, 0] * 5).cos()
    torch.testing.assert_close(product(0), (q[0, :, 0] * k[0, :, 0] * distance).sum())


def test_slopes_of_layers():
    torch.testing.assert_close(layer_slopes(4, 0, 5)[0], torch.tensor(0.25 * (1 + 1e-5)))
    torch.testing.assert_close(layer_slopes(4, 2, 5)[0], torch.tensor(0.25 * (0.5 + 1e-5)))
    assert 0 < layer_slopes(4, 4, 5).max() < 1e-5  # almost no decay
    assert torch.equal(layer_slopes(4, 0, 1), layer_slopes(4, 0, 5))  # where the published rule divides by 0
    with pytest.raises(ValueError, match=r"the index of a layer must be 0\.\.4, found 5"):
        layer_slopes(4, 5, 5)


def test_norms_have_no_weights():
    model = made()
    x = 7 * torch.randn(2, 3, 32)
    torch.testing.assert_close(model.norm(x).square().mean(-1), torch.ones(2, 3))
    assert not any("norm" in name or "slopes" in name for name in model.state_dict())


@torch.no_grad()
def test_embeddings_are_scaled():
    ids = torch.tensor([[3, 4]])
    torch.testing.assert_close(made().embed(ids), made(scale_embedding=False).embed(ids) * 32**0.5)


@torch.no_grad()
def test_example_differs_from_the_language_model():
    """Values are activated and the norm is a layer norm: with zero values nothing but its bias is left."""
    torch.manual_seed(0)
    attention = ExampleAttention(32, 4, 0, 3)
    torch.nn.init.zeros_(attention.v_proj.weight)
    assert not attention(torch.randn(1, 5, 32)).any()
    attention.norm.bias.fill_(1.0)
    assert attention(torch.randn(1, 5, 32)).abs().min() > 0


@pytest.mark.parametrize("options", [{}, {"bias": True, "lrpe": (0, 2)}, {"tied": False}])
def test_published_weights_are_found(options):
    model = made(**options)
    ((arch, own, state),) = TransNormer.guess_options(TransNormer.convert_official(official(model)))
    found = TransNormer.create(**{"arch": arch, **own}).eval()
    found.load_state_dict(state)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(found(ids), model(ids))


def test_the_head_is_the_embedding_where_they_are_equal():
    state = official(made())
    assert "lm_head.weight" not in TransNormer.convert_official(state)
    changed = copy.deepcopy(state)
    changed["lm_head.weight"][0, 0] += 1
    assert "lm_head.weight" in TransNormer.convert_official(changed)
    with pytest.raises(CheckpointError, match="gate"):
        TransNormer.convert_official({**state, "model.layers.0.gate.weight": torch.ones(1)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lrpe": (3,)}, r"lrpe must name layers 0\.\.2, found 3"),
        ({"arch": {**ARCH, "num_heads": 5}}, "num_heads must divide the width 48, found 5"),
        ({"arch": "2b"}, "has no arch '2b'"),
        ({"arch": {"embed_dims": 4}}, "an arch of TransNormer has keys"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        TransNormer(**{"arch": ARCH, **options})


def test_no_relative_positions_at_all():
    """An empty list, at which the published layer fails."""
    model = made(lrpe=())
    assert model(torch.arange(5)[None]).isfinite().all()
    assert not any("lrpe" in name for name in model.state_dict())
