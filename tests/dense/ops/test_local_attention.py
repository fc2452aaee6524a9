"""Local products: against loops over pixels, both backends, gradients of both orders, bad input."""

import importlib

import pytest
import torch

from dense.ops import local_logits, local_mask, local_sum

module = importlib.import_module("dense.ops.local_attention")
BACKENDS = ("torch", "numba")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def neighbours(height, width, window_size):
    """(pixel, place, neighbour) of all places on the map."""
    radius = window_size // 2
    for y in range(height):
        for x in range(width):
            for t in range(window_size**2):
                v, u = y + t // window_size - radius, x + t % window_size - radius
                if 0 <= v < height and 0 <= u < width:
                    yield (y, x), t, (v, u)


def naive_logits(query, key, window_size):
    out = query.new_zeros(*query.shape[:-1], window_size**2)
    for here, t, there in neighbours(*query.shape[-3:-1], window_size):
        out[(..., *here, t)] = (query[(..., *here, slice(None))] * key[(..., *there, slice(None))]).sum(-1)
    return out


def naive_sum(weights, values):
    out = torch.zeros_like(values)
    for here, t, there in neighbours(*values.shape[-3:-1], round(weights.shape[-1] ** 0.5)):
        out[(..., *here, slice(None))] += (
            weights[(..., *here, t)][..., None] * values[(..., *there, slice(None))]
        )
    return out


def maps(*leading, size=(5, 4), channels=6, dtype=torch.float64, count=2):
    return [torch.randn(*leading, *size, channels, dtype=dtype) for _ in range(count)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window_size", [1, 3, 5])
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
@pytest.mark.parametrize("size", [(5, 4), (1, 3), (2, 2)])  # windows larger than the map, too
def test_equal_loops(backend, window_size, leading, size):
    query, key = maps(*leading, size=size)
    weights = torch.randn(*leading, *size, window_size**2, dtype=torch.float64)
    found = local_logits(query, key, window_size, backend=backend)
    torch.testing.assert_close(found, naive_logits(query, key, window_size))
    torch.testing.assert_close(local_sum(weights, key, backend=backend), naive_sum(weights, key))


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend):
    """One row of three pixels: each sees its left neighbour, itself and its right one."""
    query, key = torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[10.0], [20.0], [40.0]]])
    logits = local_logits(query, key, backend=backend)
    assert logits[0, :, 3:6].tolist() == [[0, 10, 20], [20, 40, 80], [60, 120, 0]]
    assert logits[..., :3].abs().max() == logits[..., 6:].abs().max() == 0
    assert local_sum(logits, key, backend=backend).flatten().tolist() == [500, 4200, 6000]
    assert local_mask(1, 3)[0, :, 3:6].tolist() == [[False, True, True], [True] * 3, [True, True, False]]


@pytest.mark.parametrize("window_size", [1, 3, 5])
def test_mask(window_size):
    wanted = torch.zeros(4, 3, window_size**2, dtype=torch.bool)
    for here, t, _ in neighbours(4, 3, window_size):
        wanted[(*here, t)] = True
    assert torch.equal(local_mask(4, 3, window_size), wanted)


def test_large_maps_are_split_over_threads():
    query, key = maps(3, size=(70, 9), channels=24, dtype=torch.float32)
    weights = torch.randn(3, 70, 9, 9)
    torch.testing.assert_close(local_logits(query, key), local_logits(query, key, backend="torch"))
    torch.testing.assert_close(local_sum(weights, key), local_sum(weights, key, backend="torch"))


def test_strided_and_empty_input():
    query, key = (m.transpose(0, 1) for m in maps(2))
    torch.testing.assert_close(local_logits(query, key), local_logits(query, key, backend="torch"))
    assert local_logits(*maps(0)).shape == (0, 5, 4, 9)
    assert local_logits(*maps(2, channels=0)).abs().sum() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_lies_outside_does_not_matter(backend):
    weights, values = torch.randn(4, 3, 9), torch.randn(4, 3, 2)
    other = weights.masked_fill(~local_mask(4, 3), 1e6)
    found = local_sum(other, values, backend=backend)
    torch.testing.assert_close(found, local_sum(weights, values, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(backend, dtype):
    query, key = maps(2, dtype=dtype)
    logits = local_logits(query, key, backend=backend)
    total = local_sum(logits, key, backend=backend)
    assert logits.dtype == total.dtype == dtype
    exact = naive_logits(query.double(), key.double(), 3)
    tolerance = 10 * torch.finfo(dtype).eps
    torch.testing.assert_close(logits.double(), exact, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window_size", [3, 5])
def test_gradients(backend, window_size):
    query, key = (m.requires_grad_() for m in maps(size=(2, 3), channels=2))
    weights = torch.randn(2, 3, window_size**2, dtype=torch.float64, requires_grad=True)
    for function, arguments in (
        (lambda q, k: local_logits(q, k, window_size, backend=backend), (query, key)),
        (lambda w, v: local_sum(w, v, backend=backend), (weights, key)),
    ):
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


def test_backward_runs_the_kernels(monkeypatch):
    """The portable form would need nine copies of a map where the kernels need none."""
    kinds = []
    monkeypatch.setattr(module, "run_rows", lambda kernel, *args: kinds.append(kernel))
    query, key = (m.requires_grad_() for m in maps(2))
    local_sum(local_logits(query, key), key).sum().backward()
    assert kinds == [module._logits, module._sum, module._logits, *[module._sum] * 3]


@pytest.mark.slow
def test_compile():
    def both(query, key):
        return local_sum(local_logits(query, key), key)

    query, key = maps(2)
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(query, key), both(query, key))


def test_traced_code_sees_plain_operators():
    traced = torch.jit.trace(lambda q, k: local_logits(q, k), tuple(maps(2)))
    arguments = maps(2)
    torch.testing.assert_close(traced(*arguments), local_logits(*arguments))


@pytest.mark.parametrize(
    "function,arguments,error,message",
    [
        (local_logits, (torch.zeros(4, 2), torch.zeros(4, 2)), ValueError, r"query.*\(4, 2\)"),
        (local_logits, (torch.zeros(4, 4, 2), torch.zeros(4, 3, 2)), ValueError, r"\(4, 3, 2\)"),
        (local_logits, (torch.zeros(4, 4, 2), torch.zeros(4, 4, 2).double()), TypeError, "float64"),
        (local_logits, (torch.zeros(4, 4, 2).long(),) * 2, TypeError, "query.*int64"),
        (local_logits, (torch.zeros(4, 4, 2), torch.zeros(4, 4, 2), 4), ValueError, "odd.*found 4"),
        (local_logits, (torch.zeros(4, 4, 2), torch.zeros(4, 4, 2), -1), ValueError, "found -1"),
        (local_sum, (torch.zeros(4, 4, 8), torch.zeros(4, 4, 2)), ValueError, r"\(4, 4, 8\)"),
        (local_sum, (torch.zeros(4, 4, 16), torch.zeros(4, 4, 2)), ValueError, r"\(4, 4, 16\)"),
        (local_sum, (torch.zeros(4, 5, 9), torch.zeros(4, 4, 2)), ValueError, r"\(4, 4, 9\).*\(4, 5, 9\)"),
        (local_sum, (torch.zeros(4, 4, 9), torch.zeros(4, 2)), ValueError, r"values.*\(4, 2\)"),
    ],
)
def test_bad_input(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


def test_bad_backend():
    with pytest.raises(ValueError, match="'triton'"):
        local_logits(*maps(2), backend="triton")
    with pytest.raises(ValueError, match="CPU tensors, found meta"):
        local_sum(torch.zeros(4, 4, 9, device="meta"), torch.zeros(4, 4, 2, device="meta"), backend="numba")


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize(("window", "dilation"), [((3, 5), 1), ((5, 1), 2), (3, 3), (1, 2)])
def test_windows_of_other_shapes(window, dilation, backend):
    """Against unfolding; gradients against those of the unfolded products."""
    rows, columns = (window, window) if isinstance(window, int) else window
    q, k, v = (torch.randn(2, 6, 7, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    how = {"dilation": dilation, "backend": backend}

    def unfolded(x):
        padding = [side // 2 * dilation for side in (rows, columns)]
        x = torch.nn.functional.unfold(x.permute(0, 3, 1, 2), (rows, columns), dilation, padding)
        return x.unflatten(1, (4, -1)).unflatten(3, (6, 7)).permute(0, 3, 4, 2, 1)  # (B, H, W, K * L, d)

    logits = local_logits(q, k, window, **how)
    wanted = (q.unsqueeze(-2) * unfolded(k)).sum(-1)
    torch.testing.assert_close(logits, wanted)
    y = local_sum(logits.sin(), v, window, **how)
    wanted = (wanted.sin().unsqueeze(-1) * unfolded(v)).sum(-2)
    torch.testing.assert_close(y, wanted)
    found = torch.autograd.grad(y.cos().sum(), (q, k, v))
    torch.testing.assert_close(found, torch.autograd.grad(wanted.cos().sum(), (q, k, v)))
    ones = torch.ones(1, 6, 7, 1, dtype=torch.float64)
    inside = local_logits(ones, ones, window, **how)[0] > 0
    assert torch.equal(local_mask(6, 7, window, dilation=dilation), inside)


def test_bad_windows():
    x = torch.zeros(1, 4, 4, 2)
    with pytest.raises(ValueError, match=r"window_size must be odd and positive, found \(3, 2\)"):
        local_logits(x, x, (3, 2))
    with pytest.raises(ValueError, match="dilation must be at least 1, found 0"):
        local_logits(x, x, 3, dilation=0)
    with pytest.raises(ValueError, match=r"weights must have shape \(1, 4, 4, 15\)"):
        local_sum(torch.zeros(1, 4, 4, 9), x, (3, 5))
