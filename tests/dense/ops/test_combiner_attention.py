"""Combiner attention: against loops over positions and regions, coverage, causality, bad input."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dense.ops import combiner_attention
from dense.ops.combiner_attention import FACTORIZATIONS, default_segment

PLAIN = [name for name in FACTORIZATIONS if name != "rowmajor"]
MIX = torch.randn(4, 4, generator=torch.Generator().manual_seed(3)).double()


def summarize(values):
    return values @ MIX


def options(factorization):
    return {"summarize": summarize} if factorization == "rowmajor" else {}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def heads(length, width=4, batch=1):
    return [torch.randn(batch, 2, length, width).double() for _ in range(3)]


def terms(factorization, p, length, size, causal):
    """Single positions and regions of position p, in loops."""
    row, column = divmod(p, size)
    rows = -(-length // size)
    if factorization == "logsparse":
        regions, level = [], 1
        while level < length:
            block = p // level
            if block % 2 or not causal:
                other = block - 1 if block % 2 else block + 1
                regions.append([j for j in range(other * level, (other + 1) * level) if j < length])
            level *= 2
        return [p], [r for r in regions if r]
    last = p if causal else min(length, (row + 1) * size) - 1
    single = list(range(row * size, last + 1))
    if factorization == "fixed":
        seen = range(row) if causal else range(rows)
        return single, [[j for j in range(t * size, (t + 1) * size) if j < length] for t in seen]
    others = [t for t in range(rows) if t < row or (t > row and not causal)]
    single += [t * size + column for t in others if t * size + column < length]
    regions = []
    if factorization in ("vertical", "mixture"):
        for side in ([t for t in others if t < row], [t for t in others if t > row]):
            regions += [[t * size + c for t in side] for c in range(size) if c != column]
    if factorization in ("horizontal", "mixture"):
        for t in others:
            regions += [[t * size + c for c in cs] for cs in (range(column), range(column + 1, size))]
    regions = [[j for j in region if j < length] for region in regions]
    return single, [region for region in regions if region]


def naive(q, k, v, factorization, size, causal, sums=False):
    """Weights of all positions, (B, heads, N, N), by loops."""
    length = q.shape[2]
    weights = torch.zeros(*q.shape[:2], length, length).double()
    for p in range(length):
        single, regions = terms(factorization, p, length, size, causal)
        logits = [(q[:, :, p] * k[:, :, j]).sum(-1) for j in single]
        inner = []
        for region in regions:
            query, key = (x[:, :, region].sum(2) if sums else x[:, :, region].amax(2) for x in (q, k))
            logits.append((q[:, :, p] * key).sum(-1))
            inner.append((k[:, :, region] @ query[..., None]).squeeze(-1).softmax(-1))
        found = torch.stack(logits, -1).softmax(-1)
        for i, j in enumerate(single):
            weights[:, :, p, j] += found[..., i]
        for i, (region, within) in enumerate(zip(regions, inner, strict=True), len(single)):
            weights[:, :, p, region] += found[..., i, None] * within
    return weights


def row_major(q, k, v, size, causal):
    """By loops; rows past the end have queries of zeros."""
    length = q.shape[2]
    rows = -(-length // size)
    full = torch.nn.functional.pad(q, (0, 0, 0, rows * size - length))
    values = torch.zeros(*full.shape[:3], v.shape[-1]).double()
    for p in range(rows * size):
        row = slice(p // size * size, min((p // size + 1) * size, length))
        values[:, :, p] = torch.einsum(
            "bhj,bhjc->bhc",
            torch.einsum("bhd,bhjd->bhj", full[:, :, p], k[:, :, row]).softmax(-1),
            v[:, :, row],
        )
    keys, out = summarize(values), torch.empty_like(v)
    for p in range(length):
        row, column = divmod(p, size)
        own = slice(row * size, p + 1 if causal else min((row + 1) * size, length))
        places = [t * size + column for t in (range(row) if causal else range(rows))]
        seen = torch.cat((k[:, :, own], keys[:, :, places]), 2)
        weights = torch.einsum("bhd,bhjd->bhj", q[:, :, p], seen).softmax(-1)
        out[:, :, p] = torch.einsum(
            "bhj,bhjc->bhc", weights, torch.cat((v[:, :, own], values[:, :, places]), 2)
        )
    return out


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("factorization", PLAIN)
def test_equals_loops_and_reaches_all(factorization, causal):
    for length, size in ((12, 4), (13, 5), (7, 3), (9, 9), (3, 4), (1, 1), (5, 1)):
        q, k, v = heads(length)
        weights = naive(q, k, v, factorization, size, causal)
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, length).double())
        reached = (weights > 0).all(1)[0]
        assert torch.equal(reached, torch.ones_like(reached).tril() if causal else torch.ones_like(reached))
        found = combiner_attention(q, k, v, factorization, size, causal=causal)
        torch.testing.assert_close(found, weights @ v)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("length", "size"), [(12, 4), (14, 5), (3, 4), (1, 1)])
def test_row_major_equals_loops(length, size, causal):
    q, k, v = heads(length)
    found = combiner_attention(q, k, v, "rowmajor", size, causal=causal, summarize=summarize)
    torch.testing.assert_close(found, row_major(q, k, v, size, causal))


@pytest.mark.parametrize("factorization", ["mixture", "vertical", "horizontal"])
def test_sums_as_summaries(factorization):
    q, k, v = heads(14)
    wanted = naive(q, k, v, factorization, 4, True, sums=True) @ v
    torch.testing.assert_close(combiner_attention(q, k, v, factorization, 4, summary="cumsum"), wanted)


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_causal_constant_and_gradients(factorization):
    q, k, v = heads(11)
    kwargs = options(factorization)
    ones = combiner_attention(q, k, torch.ones_like(v), factorization, 4, **kwargs)
    torch.testing.assert_close(ones, torch.ones_like(v))
    found = combiner_attention(q, k, v, factorization, 4, **kwargs)
    changed = [torch.cat((x[:, :, :6], torch.randn(1, 2, 5, 4).double() * 9), 2) for x in (q, k, v)]
    torch.testing.assert_close(
        combiner_attention(*changed, factorization, 4, **kwargs)[:, :, :6], found[:, :, :6]
    )
    for causal in (True, False):
        inputs = [x[:, :1, :7, :2].clone().requires_grad_() for x in (q, k, v)]
        rule = {"summarize": lambda x: x * 2} if kwargs else {}
        assert torch.autograd.gradcheck(
            lambda *x, rule=rule, causal=causal: combiner_attention(
                *x, factorization, 3, causal=causal, **rule
            ),
            inputs,
        )


def test_where_all_is_seen_singly_it_is_plain_attention():
    q, k, v = heads(9)
    plain = torch.nn.functional.scaled_dot_product_attention
    wanted = plain(q, k, v, is_causal=True, scale=1.0)
    torch.testing.assert_close(combiner_attention(q, k, v, "fixed", 9), wanted)
    found = combiner_attention(q, k, v, "logsparse")
    torch.testing.assert_close(found[:, :, :2], wanted[:, :, :2])  # regions of one
    found = combiner_attention(q, k, v, "mixture", 9, causal=False)
    torch.testing.assert_close(found, plain(q, k, v, scale=1.0))


def test_quirk_of_log_sparse():
    for length in (9, 10):
        q, k, v = heads(length)
        plain, quirky = (combiner_attention(q, k, v, "logsparse", reference_quirks=x) for x in (False, True))
        torch.testing.assert_close(plain[:, :, :8], quirky[:, :, :8])
        assert torch.allclose(plain, quirky) == (length == 10)
        if length == 9:
            torch.testing.assert_close(quirky[:, :, 8], v[:, :, 8])


def test_quirk_of_bidirectional_mixture():
    """One row of two: own position twice, the other once, five regions of zeros or of a single position."""
    q, k, v = heads(2)
    found = combiner_attention(q, k, v, "mixture", 2, causal=False, reference_quirks=True)
    logits = torch.stack(((q[:, :, 0] * k[:, :, 0]).sum(-1), (q[:, :, 0] * k[:, :, 1]).sum(-1)), -1).exp()
    # regions: above and below column 1 are empty, each with the mean of its line, which is v_1
    total = 2 * logits[..., :1] + logits[..., 1:] + 2
    wanted = (2 * logits[..., :1] * v[:, :, 0] + (logits[..., 1:] + 2) * v[:, :, 1]) / total
    torch.testing.assert_close(found[:, :, 0], wanted)
    torch.testing.assert_close(
        combiner_attention(q, k, v, "mixture", 2, causal=False),
        torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0),
    )


def test_dtypes_and_widths():
    q, k, v = (x.bfloat16() for x in heads(10))
    wide = torch.cat((v, v), -1)
    for factorization in PLAIN:
        found = combiner_attention(q, k, wide, factorization, 4)
        assert found.dtype == torch.bfloat16
        assert found.shape == wide.shape
        exact = combiner_attention(q.double(), k.double(), wide.double(), factorization, 4)
        torch.testing.assert_close(found.double(), exact, atol=2e-2, rtol=2e-2)
    assert [default_segment(n) for n in (1, 2, 16, 17, 1024)] == [1, 2, 4, 5, 32]


@pytest.mark.parametrize(("factorization", "power"), [("fixed", 1.5), ("mixture", 1.5), ("logsparse", 1.1)])
def test_products_grow_with_length(factorization, power):
    """16 times as many tokens: 64 times as many multiply-adds, or by a logarithm more than 16 times."""
    counts = []
    for length in (256, 4096):
        q, k, v = (torch.zeros(1, 1, length, 4) for _ in range(3))
        with FlopCounterMode(display=False) as counter:
            combiner_attention(q, k, v, factorization)
        counts.append(counter.get_total_flops())
    growth = counts[1] / counts[0]
    assert 0.85 * 16**power < growth < 1.15 * 16**power


def test_bad_input():
    q, k, v = heads(4)
    for kwargs, message in (
        ({"factorization": "learnable"}, "factorization must be one of .* found 'learnable'"),
        ({"segment": 0}, "segment must be 1 or more, found 0"),
        ({"summary": "mean"}, "summary must be one of .* found 'mean'"),
        ({"summary": "cumsum"}, "'cumsum' is of running regions, which 'fixed' has not"),
        ({"factorization": "rowmajor"}, "summarize is of 'rowmajor' and of nothing else"),
        ({"summarize": summarize}, "summarize is of 'rowmajor' and of nothing else, found 'fixed'"),
    ):
        with pytest.raises(ValueError, match=message):
            combiner_attention(q, k, v, **kwargs)
    with pytest.raises(ValueError, match=r"q, k and v must be .* found .*\(1, 2, 3, 4\)"):
        combiner_attention(q, k, v[:, :, :3])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_padding_is_seen_by_none(factorization, causal):
    q, k, v = heads(11, batch=2)
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0, 7:], mask[1, [0, 1, 4]] = False, False
    kwargs = {"causal": causal, **options(factorization)}
    found = combiner_attention(q, k, v, factorization, 4, key_mask=mask, **kwargs)
    changed = [torch.where(mask[:, None, :, None], x, torch.randn_like(x) * 9) for x in (q, k, v)]
    again = combiner_attention(*changed, factorization, 4, key_mask=mask, **kwargs)
    for i in range(2):
        torch.testing.assert_close(found[i, :, mask[i]], again[i, :, mask[i]])
    if factorization != "rowmajor":  # whose summaries past the end have a query of zeros
        short = combiner_attention(q[:1, :, :7], k[:1, :, :7], v[:1, :, :7], factorization, 4, **kwargs)
        torch.testing.assert_close(found[:1, :, :7], short)
