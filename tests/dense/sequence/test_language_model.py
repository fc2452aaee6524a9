"""What all causal language models have in common: tokens or embeddings in, at once or one after another."""

import pytest
import torch

from dense.sequence.networks.combiner import Combiner
from dense.sequence.networks.kernelized_rpe import KernelizedRPE
from dense.sequence.networks.transformer import Transformer
from dense.sequence.networks.transnormer import TransNormer

MODELS = {
    "learned": lambda: Transformer(_small(Transformer), 30, max_length=20),
    "rotary": lambda: Transformer(_small(Transformer), 30, positions="rotary"),
    "none": lambda: Transformer(_small(Transformer), 30, positions="none", bias=True),
    "kernelized_rpe": lambda: KernelizedRPE(_small(KernelizedRPE), 30, max_length=20),
    "kernelized_rpe_clipped": lambda: KernelizedRPE(_small(KernelizedRPE), 30, clip=3, normalize=False),
    "combiner_fixed": lambda: _combiner("fixed"),
    "combiner_mixture": lambda: _combiner("mixture"),
    "combiner_rowmajor": lambda: _combiner("rowmajor"),
    "combiner_logsparse": lambda: _combiner("logsparse"),
    "transnormer": lambda: TransNormer({**_small(TransNormer), "hidden_dims": 48, "glu_dims": 24}, 30),
}


def _combiner(factorization):
    return Combiner(_small(Combiner), 30, factorization=factorization, segment=5)


def _small(cls):
    return {**cls.archs["tiny"], "embed_dims": 32, "depth": 3, "num_heads": 2}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval().double()


def ids_of(batch=2, length=17):
    return torch.randint(30, (batch, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("cuts", [(1,) * 17, (9, 1, 7), (17,)])
def test_token_by_token_equals_all_at_once(model, cuts):
    ids, state, found = ids_of(), model.new_state(2), []
    for part in ids.split(cuts, 1):
        logits, state = model(part, state=state)
        found.append(logits)
    torch.testing.assert_close(torch.cat(found, 1), model(ids))
    assert state.length == 17


@torch.no_grad()
def test_a_state_can_be_continued_twice(model):
    ids = ids_of()
    _, state = model(ids[:, :8], state=model.new_state(2))
    first, _ = model(ids[:, 8:], state=state)
    second, _ = model(ids[:, 8:], state=state)
    assert torch.equal(first, second)


@torch.no_grad()
def test_later_tokens_change_nothing_before_them(model):
    ids = ids_of()
    other = ids.clone()
    other[:, 12:] = (other[:, 12:] + 1) % 30
    before, after = model(ids), model(other)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert (before[:, 12:] != after[:, 12:]).any(-1).all()


@torch.no_grad()
def test_embeddings_take_the_place_of_ids(model):
    ids = ids_of()
    torch.testing.assert_close(model(embeddings=model.embed(ids)), model(ids))


@torch.no_grad()
def test_padding_is_not_seen(model):
    """Whatever lies there; also where its state is kept."""
    ids, mask = ids_of(), torch.ones(2, 17, dtype=torch.bool)
    mask[:, :3], mask[0, 10] = False, False
    other = torch.where(mask, ids, (ids + 1) % 30)
    wanted = model(ids, mask=mask)
    assert wanted.isfinite().all()
    torch.testing.assert_close(model(other, mask=mask)[mask], wanted[mask])
    first, state = model(other[:, :11], mask=mask[:, :11], state=model.new_state(2))
    second, _ = model(other[:, 11:], mask=mask[:, 11:], state=state)
    torch.testing.assert_close(torch.cat((first, second), 1)[mask], wanted[mask])


@torch.no_grad()
def test_hidden_states_can_be_changed_between_layers(model):
    seen = []

    def forget(index, x):
        seen.append(index)
        return torch.zeros_like(x) if index == 1 else x

    logits = model(ids_of(), after_layer=forget)
    assert seen == [0, 1, 2]
    same = model(ids_of().flip(0), after_layer=forget)
    torch.testing.assert_close(logits, same)  # what was before the second layer's end is gone


def test_with_cp_changes_no_gradient(model):
    gradients = []
    for model.with_cp in (False, True):
        model.zero_grad()
        model.train()(ids_of()).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_head_of_its_own():
    model = Transformer(_small(Transformer), 30, tied=False)
    assert model.lm_head.weight.shape == (30, 32)
    assert Transformer(_small(Transformer), 30).lm_head is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(torch.tensor([[1, 30]])), r"ids must be 0\.\.29, the vocabulary, found 30"),
        (lambda m: m(torch.tensor([[-1, 3]])), r"ids must be 0\.\.29, the vocabulary, found -1"),
        (lambda m: m(torch.tensor([1, 2])), r"ids must be integers \(B, n\), found torch\.int64 \(2,\)"),
        (lambda m: m(torch.ones(1, 2)), r"ids must be integers \(B, n\), found torch\.float32"),
        (lambda m: m(torch.ones(1, 0).long()), r"embeddings must be \(B, n, 32\) with n from 1"),
        (lambda m: m(), "found neither of ids and embeddings"),
        (lambda m: m(ids_of(), embeddings=torch.zeros(2, 17, 32)), "found both of ids and embeddings"),
        (
            lambda m: m(embeddings=torch.zeros(2, 5, 31)),
            r"embeddings must be \(B, n, 32\).*found \(2, 5, 31\)",
        ),
        (lambda m: m(ids_of(), mask=torch.ones(2, 17)), r"mask must be bool \(2, 17\), found torch\.float32"),
        (lambda m: m(ids_of(), mask=torch.ones(2, 1).bool()), r"mask must be bool \(2, 17\).*\(2, 1\)"),
        (lambda m: m(ids_of(1, 21)), "found 21 tokens, but positions reach only 20"),
        (
            lambda m: m(ids_of(1, 4), state=m.new_state()._replace(length=17)),
            "found 21 tokens, but positions",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(MODELS["learned"]())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 1}, "vocab_size must be at least 2, found 1"),
        ({"max_length": 0}, "max_length must be at least 1, found 0"),
        ({"positions": "rotry"}, "positions must be one of .*found 'rotry'"),
        ({"arch": {**_small(Transformer), "num_heads": 5}}, "num_heads must divide embed_dims 32, found 5"),
        ({"arch": {**_small(Transformer), "num_heads": 32}, "positions": "rotary"}, "even width, found 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Transformer(**{"arch": _small(Transformer), **options})
