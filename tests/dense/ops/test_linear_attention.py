"""Linear attention: against all pairs of positions, gradients, dtypes, memory, bad input."""

import pytest
import torch
from torch.nn import functional as F

from dense.ops import linear_attention
from dense.ops.linear_attention import FEATURES, elu_plus_one

from ..memory import LargestTensor

PLAIN = {
    "identity": lambda x: x,
    "relu": F.relu,
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "exp": lambda x: (x / 5).exp(),
    "elu": lambda x: F.elu(x) + 1,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def heads(queries=7, keys=7, width=4, values=4):
    shapes = (2, 3, queries, width), (2, 3, keys, width), (2, 3, keys, values)
    return [torch.randn(shape).double() for shape in shapes]


def naive(q, k, v, feature="identity", normalization="quotient", scale=1.0, augment_rank=False, eps=0.0):
    """All pairs of positions, explicitly."""
    q, k = PLAIN[feature](q), PLAIN[feature](k)
    count = k.shape[-2]
    if normalization == "difference":
        weights = scale / count * (q @ k.mT - q @ k.mean(-2, keepdim=True).mT) + 1 / count
        return weights @ v
    weights = q @ k.mT
    if augment_rank:
        weights = weights * (q.mean(-2, keepdim=True) @ k.mT * k.shape[-1] ** -0.5).softmax(-1)
    if normalization == "quotient":
        weights = weights / (weights.sum(-1, keepdim=True) + eps)
    return scale * weights @ v


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize(
    "options",
    [
        {"normalization": "difference", "scale": 0.5},
        {"normalization": "none", "scale": 3.0},
        {"eps": 0.1},
        {"augment_rank": True, "eps": 1e-6},
    ],
)
def test_equals_all_pairs(feature, options):
    q, k, v = heads(queries=5, keys=9, values=6)
    if options.get("normalization", "quotient") == "quotient":
        q, k = q.abs() + 0.1, k.abs() + 0.1
    wanted = naive(q, k, v, feature, **options)
    torch.testing.assert_close(linear_attention(q, k, v, feature=feature, **options), wanted)


@pytest.mark.parametrize("scale", [1.0, torch.tensor(2.0).double(), torch.rand(3, 1, 1).double()])
@pytest.mark.parametrize("normalization", ["quotient", "none"])
def test_scale_of_heads(scale, normalization):
    q, k, v = (x.abs() for x in heads())
    found = linear_attention(q, k, v, normalization=normalization, scale=scale)
    torch.testing.assert_close(found, scale * linear_attention(q, k, v, normalization=normalization))


def test_differences_sum_to_one_and_are_injective():
    q, k, v = heads()
    how = {"normalization": "difference", "scale": 0.5}
    torch.testing.assert_close(linear_attention(q, k, torch.ones_like(v), **how), torch.ones_like(q))
    torch.testing.assert_close(linear_attention(0 * q, k, v, **how), v.mean(-2, keepdim=True).expand_as(q))
    assert not torch.allclose(linear_attention(2 * q, k, v, **how), linear_attention(q, k, v, **how))
    quotients = [linear_attention(x.abs(), k.abs(), v) for x in (q, 2 * q)]
    torch.testing.assert_close(*quotients)


def test_minimum_bounds_the_denominator():
    q, k, v = (x.abs() for x in heads())
    total = (q @ k.mT).sum(-1, keepdim=True)
    bound = total.median().item()
    found = linear_attention(q, k, v, minimum=bound)
    torch.testing.assert_close(found, q @ k.mT @ v / total.clamp(min=bound))
    assert (total < bound).any() and (total > bound).any()
    torch.testing.assert_close(linear_attention(q, k, v, minimum=0.0), naive(q, k, v))


def test_rotation_is_of_the_numerator():
    q, k, v = (x.abs() for x in heads())
    turn = lambda x: x * torch.arange(1.0, 8).double()[:, None]  # noqa: E731
    wanted = turn(q) @ turn(k).mT @ v / (q @ k.mT).sum(-1, keepdim=True)
    torch.testing.assert_close(linear_attention(q, k, v, rotate=turn), wanted)


@pytest.mark.parametrize(
    "options",
    [{"normalization": "difference"}, {"feature": "elu", "augment_rank": True}, {"feature": "exp"}],
)
def test_gradients(options):
    inputs = [x[:1, :1].requires_grad_() for x in heads(4, 3)]
    assert torch.autograd.gradcheck(lambda *x: linear_attention(*x, **options), inputs)


def test_elu_plus_one():
    x = torch.tensor([-40.0, -1.0, 0.0, 2.0], requires_grad=True)
    y = elu_plus_one(x)
    torch.testing.assert_close(y[1:], F.elu(x[1:]) + 1)
    assert y[0] > 0
    (found,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad(F.elu(x).sum(), x)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_survive_half_precision(dtype):
    """10000 * 16 is too large for float16."""
    q, k, v = torch.full((1, 1, 2, 1), 4.0), torch.full((1, 1, 10000, 1), 4.0), torch.ones(1, 1, 10000, 1)
    found = linear_attention(*(x.to(dtype) for x in (q, k, v)))
    assert found.dtype == dtype and torch.equal(found, torch.ones_like(found))


@torch.no_grad()
@pytest.mark.parametrize("normalization", ["quotient", "difference", "none"])
def test_holds_no_pairs_of_positions(normalization):
    with LargestTensor() as largest:
        linear_attention(*(x.abs() for x in heads(500, 500)), normalization=normalization)
    assert largest.numel <= 2 * 3 * 500 * 4


def test_bad_input():
    q, k, v = heads()
    with pytest.raises(ValueError, match="feature must be one of .*, found 'cosine'"):
        linear_attention(q, k, v, feature="cosine")
    with pytest.raises(ValueError, match="normalization must be one of .*, found 'sum'"):
        linear_attention(q, k, v, normalization="sum")
    with pytest.raises(ValueError, match="'difference' excludes augment_rank and rotate"):
        linear_attention(q, k, v, normalization="difference", augment_rank=True)
    for options in ({"eps": 1.0}, {"minimum": 1.0}):
        with pytest.raises(ValueError, match="'none' has no denominator"):
            linear_attention(q, k, v, normalization="none", **options)
