import importlib

import pytest
import torch

from pointsuite.ops import offset_attention, projected_attention

from .test_pool_neighbours import slices

module = importlib.import_module("pointsuite.ops.projected_attention")


def arguments(shape=(3, 4, 5, 8), channels=6, dtype=torch.float64):
    torch.manual_seed(0)
    x = torch.randn(*shape, dtype=dtype)
    narrow, wide = (torch.randn(rows, shape[-1], dtype=dtype) for rows in (4, 2 * channels))
    return [t.requires_grad_() for t in (x, narrow, wide, torch.randn(channels, dtype=dtype))]


@pytest.mark.parametrize("axis", [-3, -2])
@pytest.mark.parametrize("moments", [True, False])
@pytest.mark.parametrize("part", [1, 2, 2**20])
def test_fused_equals_plain(axis, moments, part, monkeypatch):
    monkeypatch.setattr(module, "cache_sized", lambda batch, _: slices(len(batch), part))
    monkeypatch.setattr(module, "ROWS", 7)
    given = arguments()
    results = []
    for fused in (True, False):
        found = projected_attention(*given, axis, moments=moments, fused=fused)
        assert (found[1] is None) == (found[2] is None) == (not moments)
        found = [t for t in found if t is not None]
        torch.manual_seed(1)
        loss = sum((t * torch.randn_like(t)).sum() for t in found)
        results.append([*found, *torch.autograd.grad(loss, given)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("axis", [-3, -2])
def test_linear_maps_before_and_behind(axis):
    """W (x - A^T (V x + b)) = t - A^T v."""
    x, narrow, wide, b = (t.detach() for t in arguments(channels=8))
    of_value, behind = wide.chunk(2)
    values = torch.cat([x @ narrow.T, x @ of_value.T + b], -1)
    wanted = offset_attention(x, values, axis) @ behind.T
    joined = torch.cat([behind @ of_value, behind])
    found, _, _ = projected_attention(x, narrow, joined, behind @ b, axis)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("axis", [-3, -2])
def test_gradcheck(axis):
    given = arguments((2, 3, 4, 4), 2)
    assert torch.autograd.gradcheck(lambda *t: projected_attention(*t, axis, moments=True), given)
    x, narrow, wide, _ = given
    assert torch.autograd.gradcheck(lambda *t: projected_attention(*t, None, axis)[0], (x, narrow, wide))


def test_by_hand():
    """Two centres of one neighbour: P is 1, A is 1/2 each; t is 0 and v is 3 and 5."""
    x = torch.tensor([[[[3.0]], [[5.0]]]])
    narrow, wide = torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])
    h, mean, variance = projected_attention(x, narrow, wide, None, -3, moments=True)
    assert (h.flatten().tolist(), mean.item(), variance.item()) == ([-1.5, -2.5], -2, 0.25)
    assert projected_attention(x, narrow, wide, None, -2)[0].flatten().tolist() == [-3, -5]


def test_variance_far_from_zero():
    x, narrow, wide, _ = arguments((8, 4, 5, 8), dtype=torch.float32)
    x = torch.cat([x[..., :-1], torch.ones_like(x[..., :1])], -1).detach()
    wide = wide.detach()
    wide[6:, -1] = 1000
    exact = (t.detach().double() for t in (x, narrow, wide))
    _, _, wanted = projected_attention(*exact, None, -3, moments=True, fused=False)
    variance = projected_attention(x, narrow, wide, None, -3, moments=True)[2]
    torch.testing.assert_close(variance.double(), wanted, rtol=1e-4, atol=0)


def test_strided_input_and_no_gradient():
    x, *weights = arguments()
    strided = x.transpose(1, 3).contiguous().transpose(1, 3)
    wanted = projected_attention(x, *weights, -3)[0]
    torch.testing.assert_close(projected_attention(strided, *weights, -3)[0], wanted)
    with torch.no_grad():
        torch.testing.assert_close(projected_attention(x, *weights, -3)[0], wanted)
