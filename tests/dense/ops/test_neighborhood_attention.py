from itertools import product

import pytest
import torch
import torch.nn.functional as F

from dense.layers import NeighborhoodAttention1d, NeighborhoodAttention2d, NeighborhoodAttention3d
from dense.ops import merge_windows, neighborhood_attention, partition_windows
from dense.ops.neighborhood_attention import _pieces, make_axes

BACKENDS = ["torch", "numba"]
# shape, window, dilation, stride, causal, with a bias
CASES = {
    "1d": ((23,), (5,), (3,), (1,), (False,), True),
    "1d causal": ((23,), (5,), (2,), (1,), (True,), False),
    "1d causal, longer than the axis": ((9,), (12,), (1,), (4,), (True,), False),
    "2d": ((9, 12), (7, 7), (1, 1), (1, 1), (False, False), True),
    "2d dilated, unequal classes": ((15, 16), (3, 7), (4, 2), (1, 1), (False, False), True),
    "2d even, strides": ((9, 11), (4, 5), (1, 1), (2, 3), (False, False), True),
    "2d one causal axis": ((8, 9), (3, 5), (1, 1), (1, 1), (True, False), False),
    "2d wide": ((6, 40), (3, 17), (1, 2), (1, 1), (False, False), True),
    "3d": ((5, 6, 7), (3, 3, 5), (1, 2, 1), (1, 1, 1), (False, False, False), True),
}


def window_of(i, length, size, dilation, stride, causal):
    """Keys of a position, and their offsets in its residue class, as the definition has them."""
    r, p = i % dilation, i // dilation
    n = -(-(length - r) // dilation)
    if causal:
        leader = min(p // stride * stride + stride - 1, n - 1)
        keys = range(max(leader - size + 1, 0), p + 1)
    else:
        leader = min(p // stride * stride + stride // 2, n - 1)
        before = size // 2
        after = size - 1 - before
        centre = min(max(leader, before), n - 1 - after)
        keys = range(centre - before, centre + after + 1)
    return [(u * dilation + r, u - p) for u in keys]


def by_definition(q, k, v, window, dilation, stride, causal, bias):
    """A query after another."""
    shape, out = q.shape[1:-2], torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    columns = list(zip(shape, window, dilation, stride, causal, strict=True))
    for place in product(*map(range, shape)):
        chosen = list(product(*(window_of(i, *column) for i, column in zip(place, columns, strict=True))))
        at = [torch.tensor(index) for index in zip(*([u for u, _ in key] for key in chosen), strict=True)]
        logits = (
            torch.einsum("bhd,bnhd->bhn", q[(slice(None), *place)], k[(slice(None), *at)])
            * q.shape[-1] ** -0.5
        )
        if bias is not None:
            offsets = zip(*([o for _, o in key] for key in chosen), strict=True)
            own = [torch.tensor(o) + size - 1 for o, size in zip(offsets, window, strict=True)]
            logits = logits + bias[(slice(None), *own)]
        weights, values = logits.softmax(-1), v[(slice(None), *at)]
        out[(slice(None), *place)] = torch.einsum("bhn,bnhd->bhd", weights, values)
    return out


def make(shape, window, biased, dtype=torch.float64, batch=2, heads=2, width=6, values=5):
    torch.manual_seed(0)
    q, k, v = (torch.randn(batch, *shape, heads, w, dtype=dtype) for w in (width, width, values))
    bias = torch.randn(heads, *(2 * size - 1 for size in window), dtype=dtype) if biased else None
    return q, k, v, bias


def run(tensors, *arguments, grad, function=neighborhood_attention, **options):
    """The result, and the gradients of all tensors."""
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in tensors]
    y = function(*leaves[:3], *arguments, leaves[3], **options)
    return [y.detach(), *torch.autograd.grad(y, [t for t in leaves if t is not None], grad.to(y))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_equals_definition(case, backend):
    """So do the gradients of q, k, v and bias; and a result without gradient."""
    shape, window, *arguments, biased = CASES[case]
    tensors = make(shape, window, biased)
    grad = torch.randn(*shape, 1, 1).expand_as(tensors[2])
    wanted = run(tensors, window, *arguments, grad=grad, function=by_definition)
    if backend == "numba":
        tensors = [None if t is None else t.float() for t in tensors]
    found = run(tensors, window, *arguments, grad=grad, backend=backend)
    plain = neighborhood_attention(*tensors[:3], window, *arguments, tensors[3], backend=backend)
    for f, w in zip([plain, *found], [wanted[0], *wanted], strict=True):
        torch.testing.assert_close(f.double(), w, rtol=0, atol=3e-6 if backend == "numba" else 1e-12)


def test_gradcheck():
    tensors = [t.requires_grad_() for t in make((5, 4), (3, 2), True, batch=1, heads=1, width=2, values=1)]
    assert torch.autograd.gradcheck(
        lambda q, k, v, bias: neighborhood_attention(q, k, v, (3, 2), (1, 2), bias=bias), tensors
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_case_by_hand(backend):
    """Equal logits: the mean of the window, which stops at the borders."""
    v = torch.tensor([0.0, 3.0, 6.0, 12.0]).view(1, 4, 1, 1)
    y = neighborhood_attention(torch.zeros_like(v), torch.zeros_like(v), v, 3, backend=backend)
    assert y.flatten().tolist() == [3, 3, 7, 7]


@pytest.mark.parametrize("backend", BACKENDS)
def test_sign_of_the_bias(backend):
    """Its last entry is that of the key furthest to the right."""
    x, bias = torch.zeros(1, 5, 1, 1), torch.full((1, 5), -1e4)
    bias[0, -2] = 0  # one to the right
    v = torch.arange(5.0).view(1, 5, 1, 1)
    y = neighborhood_attention(x, x, v, 3, bias=bias, backend=backend).flatten()
    assert y[:4].tolist() == [1, 2, 3, 4] and y[4] == 3  # the last one sees none, so all alike


def test_full_window_is_full_attention():
    """With the bias of each relative position."""
    q, k, v, table = make((4, 5), (4, 5), True)
    y, x = torch.arange(4), torch.arange(5)
    rows, columns = (a - a[:, None] + len(a) - 1 for a in (y, x))
    bias = table[:, rows[:, None, :, None], columns[None, :, None]].flatten(3).flatten(1, 2)
    heads = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))
    wanted = F.scaled_dot_product_attention(*heads, bias).transpose(1, 2).unflatten(1, (4, 5))
    torch.testing.assert_close(neighborhood_attention(q, k, v, (4, 5), bias=table), wanted)


def test_stride_of_a_window_is_blocked_attention():
    q, k, v, _ = make((6, 9), (3, 3), False, values=6)
    windows = [partition_windows(t.flatten(-2), 3).unflatten(-1, (2, -1)).transpose(1, 2) for t in (q, k, v)]
    wanted = F.scaled_dot_product_attention(*windows).transpose(1, 2).flatten(2)
    found = neighborhood_attention(q, k, v, 3, stride=3)
    torch.testing.assert_close(found.flatten(-2), merge_windows(wanted, 6, 9))


@pytest.mark.parametrize("backend", BACKENDS)
def test_dilation_is_attention_in_each_residue_class(backend):
    q, k, v, _ = make((13,), (3,), False, torch.float32)
    y = neighborhood_attention(q, k, v, 3, 3, backend=backend)
    for r in range(3):
        own = neighborhood_attention(*(t[:, r::3] for t in (q, k, v)), 3, backend=backend)
        torch.testing.assert_close(y[:, r::3], own)


@pytest.mark.parametrize("backend", BACKENDS)
def test_causal_results_do_not_see_what_follows(backend):
    q, k, v, _ = make((20,), (40,), False, torch.float32)
    causal = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True)
    y = neighborhood_attention(q, k, v, 40, causal=True, backend=backend)
    torch.testing.assert_close(y, causal.transpose(1, 2))
    k[:, 9:], v[:, 9:] = 1e3, 1e3
    assert torch.equal(neighborhood_attention(q, k, v, 40, causal=True, backend=backend)[:, :9], y[:, :9])


@pytest.mark.parametrize("window", [1, (1, 1)])
def test_window_of_one_gives_the_values(window):
    q, k, v, _ = make((3, 4), (1, 1), False)
    torch.testing.assert_close(neighborhood_attention(q, k, v, window), v)


def test_interior_moves_with_its_input():
    q, k, v, _ = make((12, 12), (3, 3), False, torch.float32)
    moved = neighborhood_attention(*(t.roll((2, 1), (1, 2)) for t in (q, k, v)), 3)
    still = neighborhood_attention(q, k, v, 3)
    torch.testing.assert_close(moved[:, 4:-2, 4:-2], still[:, 2:-4, 3:-3])


def test_large_logits_and_nan():
    """The largest is taken off before exponentials; what is not a number is seen in what sees it."""
    q, k, v, _ = make((12,), (3,), False, torch.float32)
    for backend in BACKENDS:
        y = neighborhood_attention(1e4 * q, k, v, 3, backend=backend)
        assert y.isfinite().all()
        broken = q.clone()
        broken[0, 5, 0, 0] = float("nan")
        y = neighborhood_attention(broken, k, v, 3, backend=backend)
        assert y[0, 5, 0].isnan().all() and y[0, 4].isfinite().all() and y[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    q, k, v, bias = make((6, 8), (3, 5), True)
    wanted = neighborhood_attention(q, k, v, (3, 5), bias=bias)
    found = neighborhood_attention(*(t.to(dtype) for t in (q, k, v)), (3, 5), bias=bias.float())
    assert found.dtype == dtype
    assert (found - wanted).norm() <= 4 * max(torch.finfo(dtype).eps, 1e-7) * wanted.norm()


def test_empty_batch():
    q, k, v, bias = make((4, 5), (3, 3), True, batch=0)
    assert neighborhood_attention(q, k, v, 3, bias=bias).shape == (0, 4, 5, 2, 5)


def test_strided_tensors():
    qkv = torch.randn(2, 7, 6, 3, 2, 4)
    q, k, v = qkv.unbind(3)
    for backend in BACKENDS:
        found = neighborhood_attention(q, k, v, 3, backend=backend)
        wanted = neighborhood_attention(*(t.contiguous() for t in (q, k, v)), 3, backend=backend)
        assert torch.equal(found, wanted)


def test_dropped_weights_keep_the_mean():
    q, k, v, _ = make((6, 7), (3, 3), False)
    torch.manual_seed(0)
    runs = [neighborhood_attention(q, k, v, 3, dropout=0.5) for _ in range(600)]
    wanted = neighborhood_attention(q, k, v, 3)
    assert not torch.allclose(runs[0], wanted)
    assert (torch.stack(runs).mean(0) - wanted).abs().max() < 0.2
    with pytest.raises(ValueError, match="'numba' has no dropout, found 0.5"):
        neighborhood_attention(q.float(), k.float(), v.float(), 3, dropout=0.5, backend="numba")


def test_pieces_are_small_and_cover_each_position_once():
    """Whatever the map: memory is linear in it."""
    q, seen = torch.zeros(1).expand(4, 100, 130, 8, 32), torch.zeros(100, 130)
    for rows, columns in _pieces(q, make_axes((100, 130), 7, (2, 3))):
        keys = rows.count * columns.count * rows.classes * columns.classes * rows.keys[1] * columns.keys[1]
        assert 4 * 8 * keys * rows.queries[1] * columns.queries[1] <= 2**20 or rows.count == 1
        for y, x in product(positions(rows), positions(columns)):
            seen[y, x] += 1
    assert (seen == 1).all()


def positions(run_):
    for tile, residue, place in product(range(run_.count), range(run_.classes), range(run_.queries[1])):
        u = run_.queries[0] + tile * run_.step + place
        yield u * run_.dilation + run_.first_class + residue


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"window": 6}, ValueError, "axis 0 has 5 positions, wanted at least 6: window 6 times dilation 1"),
        ({"dilation": (1, 3)}, ValueError, "axis 1 has 6 positions, wanted at least 9"),
        ({"window": 0}, ValueError, "window must be a positive integer, found 0"),
        ({"window": 2.5}, ValueError, "window must be a positive integer, found 2.5"),
        ({"window": (3, 3, 3)}, ValueError, "window must be one or 2 values"),
        ({"stride": 4}, ValueError, "stride must be at most the window 3, found 4"),
        ({"causal": (True, False), "bias": torch.zeros(2, 5, 5)}, ValueError, "wants no causal axis"),
        ({"bias": torch.zeros(2, 5, 3)}, ValueError, r"bias must have shape \(2, 5, 5\)"),
        ({"k": torch.zeros(1, 5, 5, 2, 4)}, ValueError, "one for all, found"),
        ({"v": torch.zeros(1, 5, 6, 2, 4, dtype=torch.float64)}, TypeError, "must have one dtype"),
        ({"q": torch.zeros(1, 5, 6, 2, 4, dtype=torch.long)}, TypeError, "q must be floating"),
        ({"dropout": 1.0}, ValueError, "dropout must be at least 0 and below 1"),
        ({"backend": "cuda"}, ValueError, "backend must be one of"),
    ],
)
def test_bad_input(changes, error, match):
    given = {name: torch.zeros(1, 5, 6, 2, 4) for name in "qkv"} | {"window": 3} | changes
    with pytest.raises(error, match=match):
        neighborhood_attention(**given)


# ---------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (NeighborhoodAttention1d, (9,)),
        (NeighborhoodAttention2d, (5, 7)),
        (NeighborhoodAttention3d, (3, 4, 5)),
    ],
)
def test_layers(layer, shape):
    """Shapes, and a gradient for each parameter."""
    attention = layer(8, 2, 3)
    y = attention(torch.randn(2, *shape, 8))
    assert y.shape == (2, *shape, 8)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in attention.parameters())
    with pytest.raises(ValueError, match=f"x must have {len(shape)} axes"):
        attention(torch.randn(2, *shape, 1, 8))


def test_small_inputs():
    """An error, or zeros around what queries, keys and values are made of, whose keys are their biases."""
    attention = NeighborhoodAttention2d(4, 1, 3, 2, small_input="pad")
    torch.nn.init.normal_(attention.qkv.bias)
    x = torch.randn(1, 4, 7, 4)
    wide = torch.cat((x, torch.zeros(1, 2, 7, 4)), 1)
    torch.testing.assert_close(attention(x), attention(wide)[:, :4])
    attention.small_input = "error"
    assert attention.min_size == (6, 6)
    with pytest.raises(ValueError, match="axis 0 has 4 positions, wanted at least 6"):
        attention(x)


def test_layer_options():
    for options, match in (
        ({"num_heads": 3}, "num_heads must divide"),
        ({"small_input": "crop"}, "small_input must be"),
        ({"causal": True}, "rel_pos_bias wants no causal axis"),
    ):
        with pytest.raises(ValueError, match=match):
            NeighborhoodAttention1d(**{"embed_dims": 8, "num_heads": 2, "window": 3, **options})
    drops = NeighborhoodAttention1d(8, 2, 3, attn_drop=0.5, proj_drop=0.5)
    x = torch.randn(1, 9, 8)
    assert not torch.equal(drops(x), drops(x))
    drops.eval()
    assert torch.equal(drops(x), drops(x))
