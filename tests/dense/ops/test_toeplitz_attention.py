"""Kernelised attention with offsets: against all pairs in loops, three methods, limits, bad input."""

import pytest
import torch
from torch.nn import functional as F

from dense.ops import draw_features, toeplitz_attention
from dense.ops.toeplitz_attention import break_even, fast_length


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def heads(length, width=4, batch=2):
    return [torch.randn(batch, 2, length, width).double() for _ in range(3)]


def table(length=None, clip=None, grid=None):
    sides = grid or (length if clip is None else clip + 1,)
    return torch.randn(2, *(2 * side - 1 for side in sides)).double()


def naive(q, k, v, features, bias, *, normalize=True, causal=False, clip=None, grid=None, mask=None):
    """Pair by pair."""
    if normalize:
        q, k = (F.normalize(x, dim=-1) for x in (q, k))
    else:
        q, k = (x / x.shape[-1] ** 0.25 for x in (q, k))
    q, k = ((x @ features.mT - x.square().sum(-1, keepdim=True) / 2).exp() for x in (q, k))
    length = q.shape[2]
    weights = torch.zeros(*q.shape[:3], length).double()
    for i in range(length):
        for j in range(i + 1 if causal else length):
            if grid is not None:
                (yi, xi), (yj, xj) = divmod(i, grid[1]), divmod(j, grid[1])
                b = bias[:, yj - yi + grid[0] - 1, xj - xi + grid[1] - 1]
            elif clip is not None:
                b = bias[:, max(-clip, min(clip, j - i)) + clip]
            else:
                b = bias[:, j - i + length - 1]
            weights[:, :, i, j] = b.exp() * (q[:, :, i] * k[:, :, j]).sum(-1)
    if mask is not None:
        weights = weights * mask[:, None, None]
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total, 0) @ v


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "size", [{"length": 13}, {"clip": 3}, {"clip": 40}, {"grid": (3, 5)}, {"grid": (6, 2)}]
)
def test_equals_pairs_in_loops(size, causal, masked):
    grid, clip = size.get("grid"), size.get("clip")
    length = 13 if grid is None else grid[0] * grid[1]
    q, k, v = heads(length)
    features, bias = torch.randn(6, 4).double(), table(**size)
    mask = None
    if masked:
        mask = torch.rand(2, length) < 0.7
        mask[0, :2] = False
        k, v = (torch.where(mask[:, None, :, None], x, torch.nan) for x in (k, v))  # padding may be anything
    clean = [q, k.nan_to_num(), v.nan_to_num()]
    for normalize in (True, False):
        options = {"normalize": normalize, "causal": causal, "clip": clip, "grid": grid}
        wanted = naive(*clean, features, bias, mask=mask, **options)
        for method in ("pairs", "fft", *(["blocks"] if clip else [])):
            found = toeplitz_attention(q, k, v, features, bias, key_mask=mask, method=method, **options)
            torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)


def test_long_sequences_in_pieces():
    """Pairs and columns of the FFT in several pieces, blocks that see others through sums alone."""
    q, k, v = (x[:1] for x in heads(540, width=2))
    features, bias = torch.randn(320, 2).double(), table(clip=5)
    outputs, gradients = [], []
    for causal, method in ((c, m) for c in (False, True) for m in ("pairs", "fft", "blocks")):
        inputs = [x.clone().requires_grad_() for x in (q, k, v, bias)]
        y = toeplitz_attention(*inputs[:3], features, inputs[3], clip=5, causal=causal, method=method)
        outputs.append(y)
        gradients.append(torch.autograd.grad(y.square().sum(), inputs))
    for i in (1, 2, 4, 5):
        torch.testing.assert_close(outputs[i], outputs[i // 3 * 3], atol=1e-9, rtol=1e-9)
        for found, wanted in zip(gradients[i], gradients[i // 3 * 3], strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("method", ["pairs", "fft", "blocks"])
def test_gradients(method):
    q, k, v = (x[:1, :, :5, :2] for x in heads(5))
    inputs = [x.clone().requires_grad_() for x in (q, k, v, torch.randn(3, 2).double(), table(clip=2))]
    for causal in (True, False):
        assert torch.autograd.gradcheck(
            lambda *x, causal=causal: toeplitz_attention(*x, clip=2, causal=causal, method=method),
            inputs,
            fast_mode=True,
        )


def test_hand_case():
    """One feature of zeros makes all kernels alike: the factors of the offsets alone weigh the values."""
    q = k = torch.ones(1, 1, 3, 2).double()
    v = torch.tensor([1.0, 10.0, 100.0]).double().view(1, 1, 3, 1)
    bias = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]).double().log()  # of offsets -2..2
    for method in ("pairs", "fft"):
        found = toeplitz_attention(q, k, v, torch.zeros(1, 2).double(), bias, method=method).flatten()
        wanted = [(3 + 40 + 500) / 12, (2 + 30 + 400) / 9, (1 + 20 + 300) / 6]
        torch.testing.assert_close(found, torch.tensor(wanted).double())


def test_what_changes_nothing():
    q, k, v = heads(9)
    features, bias = torch.randn(6, 4).double(), table(9)
    found = toeplitz_attention(q, k, v, features, bias)
    torch.testing.assert_close(toeplitz_attention(q, k, v, features, bias + 3), found)
    torch.testing.assert_close(toeplitz_attention(5 * q, k / 3, v, features, bias), found)
    ones = toeplitz_attention(q, k, torch.ones_like(v), features, bias, method="fft")
    torch.testing.assert_close(ones, torch.ones_like(v))
    assert (found <= v.amax(2, keepdim=True)).all() and (found >= v.amin(2, keepdim=True)).all()
    plain = toeplitz_attention(q, k, v, features)
    torch.testing.assert_close(plain, toeplitz_attention(q, k, v, features, torch.zeros_like(bias)))
    column = toeplitz_attention(q, k, v, features, bias[..., None], grid=(9, 1), method="fft")
    torch.testing.assert_close(column, found)
    bounded = toeplitz_attention(q, k, v, features, bias * 1e6, bias_bound=2.0)
    torch.testing.assert_close(bounded, toeplitz_attention(q, k, v, features, 2 * bias.sign()))


@pytest.mark.parametrize("method", ["pairs", "fft"])
def test_causal(method):
    q, k, v = heads(12)
    features, bias = torch.randn(6, 4).double(), table(12)
    for normalize in (True, False):
        options = {"normalize": normalize, "causal": True, "method": method}
        found = toeplitz_attention(q, k, v, features, bias, **options)
        changed = [torch.cat((x[:, :, :7], torch.randn(2, 2, 5, 4).double()), 2) for x in (q, k, v)]
        again = toeplitz_attention(*changed, features, bias, **options)
        torch.testing.assert_close(again[:, :, :7], found[:, :, :7], atol=1e-9, rtol=1e-9)
        last = toeplitz_attention(q[:, :, 9:], k, v, features, bias, causal=True, normalize=normalize)
        torch.testing.assert_close(last, found[:, :, 9:], atol=1e-9, rtol=1e-9)


def test_many_features_make_softmax_attention():
    q, k, v = heads(6)
    unit = [F.normalize(x, dim=-1) for x in (q, k)]
    generator = torch.Generator().manual_seed(0)
    for orthogonal in (True, False):
        features = draw_features(100_000, 4, orthogonal=orthogonal, generator=generator).double()
        found = toeplitz_attention(q, k, v, features)
        wanted = F.scaled_dot_product_attention(*unit, v, scale=1.0)
        torch.testing.assert_close(found, wanted, atol=2e-2, rtol=0)
        found = toeplitz_attention(q / 2, k / 2, v, features, normalize=False)
        wanted = F.scaled_dot_product_attention(q / 2, k / 2, v)
        torch.testing.assert_close(found, wanted, atol=2e-2, rtol=0)


def test_features():
    found = draw_features(7, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found, draw_features(7, 3, generator=torch.Generator().manual_seed(1)))
    for start in (0, 3):
        directions = F.normalize(found[start : start + 3], dim=1)
        torch.testing.assert_close(directions @ directions.T, torch.eye(3), atol=1e-5, rtol=0)
    many = draw_features(6000, 8, generator=torch.Generator().manual_seed(2))
    assert abs(many.square().sum(1).mean() - 8) < 0.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes(dtype):
    q, k, v = (x.to(dtype) for x in heads(9))
    wide, features, bias = torch.cat((v, v), -1), torch.randn(6, 4), table(9).to(dtype)
    exact = toeplitz_attention(q.double(), k.double(), wide.double(), features.double(), bias.double())
    for method in ("pairs", "fft"):
        found = toeplitz_attention(q, k, wide, features, bias, method=method)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), exact, atol=1e-2 if dtype.itemsize == 2 else 1e-5, rtol=0)


def test_far_numbers_stay_finite():
    """Features, keys and tables whose exponentials float32 does not hold."""
    q, k, v = (x.float() * 30 for x in heads(9))
    features = 40 * draw_features(16, 4)
    assert toeplitz_attention(q, k, v, features, table(9).float() * 200, normalize=False).isfinite().all()
    assert toeplitz_attention(q, k, v, draw_features(16, 4) * 10, table(9).float() + 500).isfinite().all()


def test_lengths_and_choice():
    assert [fast_length(n) for n in (1, 7, 11, 13, 121, 2047)] == [1, 8, 12, 15, 125, 2048]
    assert 256 <= break_even(16, 16) < 512 < break_even(64, 32) < break_even(64, 64) < 8192


def test_bad_input():
    q, k, v = heads(4)
    features = torch.randn(6, 4).double()
    for kwargs, message in (
        ({"bias": torch.zeros(2, 6)}, r"bias must be \(2, 7\), found \(2, 6\)"),
        ({"bias": torch.zeros(2, 6), "clip": 2}, r"bias must be \(2, 5\), found \(2, 6\)"),
        ({"bias": torch.zeros(2, 7), "grid": (2, 2)}, r"bias must be \(2, 3, 3\), found \(2, 7\)"),
        ({"grid": (2, 3)}, r"grid must have 4 places, found \(2, 3\)"),
        ({"grid": (2, 2), "clip": 1}, "clip must be 1 or more and goes with no grid"),
        ({"clip": 0}, "clip must be 1 or more"),
        (
            {"key_mask": torch.ones(2, 4)},
            r"key_mask must be \(2, 4\) of torch.bool, found .* of torch.float32",
        ),
        ({"bias_bound": 0.0}, "bias_bound must be positive, found 0.0"),
        ({"method": "blocks"}, r"method must be one of \('pairs', 'fft'\) here, found 'blocks'"),
    ):
        with pytest.raises(ValueError, match=message):
            toeplitz_attention(q, k, v, features, **kwargs)
    with pytest.raises(ValueError, match=r"features must be \(m, 4\), found \(6, 3\)"):
        toeplitz_attention(q, k, v, features[:, :3])
    with pytest.raises(ValueError, match=r"q, k and v must be .* found"):
        toeplitz_attention(q, k[:, :, :3], v, features)
    with pytest.raises(ValueError, match="method must be one of \\('pairs',\\) here, found 'fft'"):
        toeplitz_attention(q[:, :, 2:], k, v, features, method="fft")
    with pytest.raises(ValueError, match="positive numbers of rows and columns, found 0 and 4"):
        draw_features(0, 4)
