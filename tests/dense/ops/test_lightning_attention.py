"""Lightning attention against its quadratic form."""

import pytest
import torch

from dense.ops import head_slopes, lightning_attention

from ..memory import LargestTensor

SLOPES = torch.tensor([0.0, 0.1, 2.0], dtype=torch.float64)


def made(n, d=5, e=4, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = ((2, 3, n, d), (2, 3, n, d), (2, 3, n, e), (2, 3, d, e))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def by_pairs(q, k, v, slopes, state):
    n = q.shape[2]
    place, slopes = torch.arange(n, dtype=q.dtype)[:, None], slopes.view(-1, 1, 1)
    decay = torch.exp(-slopes * (place - place.T).clamp(min=0)).tril()
    y = (q @ k.mT * decay) @ v + torch.exp(-slopes * (place + 1)) * (q @ state)
    left = torch.exp(-slopes * (n - 1 - place))
    return y, (k * left).mT @ v + torch.exp(-slopes * n) * state


@pytest.mark.parametrize("n", [1, 63, 64, 65, 255, 256, 257, 913])
def test_against_pairs(n):
    tensors = made(n)
    found = lightning_attention(*tensors[:3], SLOPES, tensors[3], chunk=64)
    wanted = by_pairs(*tensors[:3], SLOPES, tensors[3])
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(y.sin().sum() + s.cos().sum(), tensors) for y, s in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_gradcheck():
    q, k, v, state = made(7, 3, 2)
    assert torch.autograd.gradcheck(
        lambda q, k, v, state: lightning_attention(q, k, v, SLOPES, state, chunk=3),
        [q, k, v, state],
        fast_mode=True,
    )


def test_without_decay_it_is_a_sum_of_prefixes():
    q, k, v, _ = (x.detach() for x in made(70))
    sums = (k[..., :, None] * v[..., None, :]).cumsum(2)
    y, state = lightning_attention(q, k, v)
    torch.testing.assert_close(y, torch.einsum("bhnd,bhnde->bhne", q, sums))
    torch.testing.assert_close(state, sums[:, :, -1])


def test_with_steep_decay_a_token_sees_itself_alone():
    q, k, v, _ = made(200)
    y, _ = lightning_attention(q, k, v, torch.full((3,), 1e4))
    torch.testing.assert_close(y, (q * k).sum(-1, keepdim=True) * v)


def test_by_hand():
    """d = e = 1, products 1: values 1, 10, 100 with a half of what was before."""
    one, v = torch.ones(1, 1, 3, 1), torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 3, 1)
    half = torch.tensor([2.0]).log()
    y, state = lightning_attention(one, one, v, half)
    torch.testing.assert_close(y.flatten(), torch.tensor([1.0, 10.5, 105.25]))
    y, state = lightning_attention(one[:, :, :1], one[:, :, :1], v[:, :, :1], half, state)
    assert y.item() == state.item() == pytest.approx(53.625)


@pytest.mark.parametrize("cut", [1, 64, 100, 129])
def test_state_is_handed_over(cut):
    q, k, v, state = made(130)
    whole, last = lightning_attention(q, k, v, SLOPES, state)
    first, between = lightning_attention(*(x[:, :, :cut] for x in (q, k, v)), SLOPES, state)
    second, found = lightning_attention(*(x[:, :, cut:] for x in (q, k, v)), SLOPES, between)
    torch.testing.assert_close(torch.cat((first, second), 2), whole)
    torch.testing.assert_close(found, last)
    parts, whole = (torch.autograd.grad(y.sin().sum(), (q, state)) for y in (second, whole[:, :, cut:]))
    torch.testing.assert_close(parts, whole)


def test_later_tokens_change_nothing_before_them():
    q, k, v, _ = (x.detach() for x in made(150))
    before, _ = lightning_attention(q, k, v, SLOPES)
    for x in (q, k, v):
        x[:, :, 140] = 7
    after, _ = lightning_attention(q, k, v, SLOPES)
    assert torch.equal(before[:, :, :140], after[:, :, :140])
    assert not torch.equal(before[:, :, 140], after[:, :, 140])


def test_it_is_linear_in_values_and_in_parts_of_the_width():
    q, k, v, _ = made(90, 6)
    y, _ = lightning_attention(q, k, v, SLOPES)
    parts = [lightning_attention(q[..., p], k[..., p], v, SLOPES)[0] for p in (slice(4), slice(4, 6))]
    torch.testing.assert_close(sum(parts), y)
    other = v.detach().flip(2)
    torch.testing.assert_close(
        lightning_attention(q, k, v + other, SLOPES)[0], y + lightning_attention(q, k, other, SLOPES)[0]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_of_float32(dtype):
    """Of a thousand tokens, which halves would add up wrongly."""
    ones = torch.ones(1, 1, 3000, 1, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = lightning_attention(ones, ones, ones)
    assert y.dtype == dtype and state.dtype == torch.float32
    assert state.item() == 3000
    torch.testing.assert_close(
        y.flatten().float(), torch.arange(1.0, 3001), rtol=torch.finfo(dtype).eps, atol=0
    )


@torch.no_grad()
def test_pairs_of_all_tokens_are_never_there():
    q, k, v = (torch.randn(1, 2, 4096, 16) for _ in range(3))
    with LargestTensor() as largest:
        lightning_attention(q, k, v, head_slopes(2))
    assert largest.numel <= q.numel()


def test_slopes_of_heads():
    torch.testing.assert_close(head_slopes(4), torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]))
    wanted = [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]  # then every second one of 8
    torch.testing.assert_close(head_slopes(6), torch.tensor(wanted))
    with pytest.raises(ValueError, match="heads must be at least 1, found 0"):
        head_slopes(0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": torch.zeros(2, 3, 5, 4)}, ValueError, r"found \(2, 3, 6, 5\), \(2, 3, 5, 4\)"),
        ({"v": torch.zeros(2, 3, 6)}, ValueError, "q, k and v must be"),
        ({"q": torch.zeros(2, 3, 6, 5).half()}, TypeError, r"of one dtype, found torch\.float16"),
        ({"slopes": torch.zeros(2)}, ValueError, r"slopes must be \(3,\), one a head, found \(2,\)"),
        ({"slopes": torch.tensor([0, -1.0, 1])}, ValueError, "slopes must be finite and not negative"),
        ({"slopes": torch.tensor([0, torch.nan, 1])}, ValueError, "slopes must be finite and not negative"),
        ({"state": torch.zeros(2, 3, 4, 5)}, ValueError, r"state must be \(2, 3, 5, 4\) torch\.float32"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1, found 0"),
        ({"backend": "numba"}, ValueError, "backend must be one of"),
    ],
)
def test_errors(change, error, message):
    q, k, v, state = (x.detach() for x in made(6, dtype=torch.float32))
    arguments = {"q": q, "k": k, "v": v, "slopes": SLOPES, "state": state, **change}
    with pytest.raises(error, match=message):
        lightning_attention(**arguments)


def test_no_token():
    empty = torch.zeros(1, 1, 0, 4)
    with pytest.raises(ValueError, match="n must be at least 1"):
        lightning_attention(empty, empty, empty)
