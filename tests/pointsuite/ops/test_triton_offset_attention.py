import pytest
import torch

pytest.importorskip("triton")
from pointsuite.ops import offset_attention as operator
from pointsuite.ops.triton import neighbour_attention
from pointsuite.ops.triton.offset_attention import MAX_K, offset_attention, supports

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEIGHBOURS, POINTS = -3, -2


def make(shape, narrow, dtype=torch.float32):
    torch.manual_seed(0)
    x = torch.randn(*shape, device=DEVICE, dtype=dtype)
    projected = torch.randn(*shape[:-1], 2 * narrow + shape[-1], device=DEVICE, dtype=dtype)
    return x.requires_grad_(), projected.requires_grad_(), torch.randn_like(x)


def results(function, x, projected, weight, axis):
    """Output and gradients, as float64."""
    y = function(x, projected, axis)
    return [t.double() for t in (y, *torch.autograd.grad((y * weight).sum(), (x, projected)))]


def check(shape, narrow, axis, dtype=torch.float32, tolerance=1e-5):
    arguments = make(shape, narrow, dtype)
    found = results(offset_attention, *arguments, axis)
    exact = [t.detach().double().requires_grad_() for t in arguments]
    wanted = results(lambda *t: operator(*t, fused=False), *exact, axis)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() <= tolerance * b.norm()


@pytest.mark.parametrize(
    "shape,narrow",
    [
        ((2, 5, 6, 8), 2),  # two centres a block, of 8 slots each
        ((2, 1, 6, 8), 2),  # one centre: A is all ones
        ((2, 3, 1, 4), 1),  # one neighbour
        ((1, 20, 8, 40), 10),  # two programs a cloud, two tiles of channels
        ((1, 2, 33, 20), 37),  # padded, and two tiles of narrow channels
    ],
)
def test_neighbours_equal_float64(shape, narrow):
    check(shape, narrow, NEIGHBOURS)


@pytest.mark.parametrize(
    "shape,narrow",
    [
        ((2, 1, 20, 8), 2),
        ((2, 2, 1, 8), 2),  # one point
        ((1, 1, 70, 70), 33),  # two blocks of rows, three of the others, two tiles of channels
    ],
)
def test_points_equal_float64(shape, narrow):
    check(shape, narrow, POINTS)


# The interpreter multiplies bfloat16 matrices as the integers that they are stored as.
HALVES = [torch.float16] + [torch.bfloat16] * torch.cuda.is_available()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape,axis", [((2, 5, 6, 8), NEIGHBOURS), ((2, 1, 20, 8), POINTS)])
def test_half_precision(shape, axis, dtype):
    check(shape, 4, axis, dtype, 4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("shape,axis", [((3, 5, 6, 8), NEIGHBOURS), ((3, 1, 20, 8), POINTS)])
def test_a_cloud_does_not_depend_on_the_batch(shape, axis):
    arguments = make(shape, 2)
    together = results(offset_attention, *arguments, axis)
    alone = results(offset_attention, *(t[1:2] for t in arguments), axis)
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a[1:2], b)  # to the bit


@pytest.mark.parametrize("axis", [NEIGHBOURS, POINTS])
def test_large_scores_do_not_overflow(axis):
    """Scores of some thousands; in rows where all are negative, the padding's zeros are far above them."""
    x, projected, weight = make((1, 2, 6, 8), 2)
    scale = torch.tensor([60.0] * 4 + [1.0] * 8, device=DEVICE)
    projected = (projected.detach() * scale).requires_grad_()
    found = results(offset_attention, x, projected, weight, axis)
    exact = [t.detach().double().requires_grad_() for t in (x, projected, weight)]
    wanted = results(lambda *t: operator(*t, fused=False), *exact, axis)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("axis", [NEIGHBOURS, POINTS])
def test_without_gradient_equals_with(axis):
    x, projected, _ = make((2, 3, 6, 8), 2)
    with torch.no_grad():
        found = offset_attention(x, projected, axis)
    assert torch.equal(found, offset_attention(x, projected, axis).detach())


def test_what_is_held_between_the_passes_is_small():
    """An eighth of all matrices, at 64 neighbours; queries and keys of 128 channels at most."""
    constants, splits = neighbour_attention.constants_of((32, 128, 64, 64), 96)
    assert splits * constants["BLOCK"] ** 2 == 128 * 64**2 // 8


def test_what_it_leaves_to_pytorch():
    x, projected, _ = make((1, 1, 4, 8), 2)
    assert supports(x, projected, NEIGHBOURS)
    assert not supports(x.double(), projected.double(), NEIGHBOURS)
    assert not supports(x.half(), projected, NEIGHBOURS)
    assert not supports(*make((1, 1, MAX_K + 1, 4), 1)[:2], NEIGHBOURS)
    assert supports(*make((1, 1, MAX_K + 1, 4), 1)[:2], POINTS)
    assert not supports(*make((1, 1, 2, 4), 129)[:2], POINTS)
