"""Correlations, their tokens, the flow in them, and the choice among flows."""

import math

import pytest
import torch
from torch.nn import functional as F

from dense.matching.cost_volume import (
    correlate,
    mutual_filter,
    pool_rows,
    read_flow,
    select_flows,
    upsample_rows,
)
from dense.ops.flow import grid_positions


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_correlation_is_the_cosine():
    source, target = randn(2, 5, 3), randn(2, 4, 3, seed=1)
    wanted = F.cosine_similarity(source[:, :, None], target[:, None], dim=-1)
    torch.testing.assert_close(correlate(source, target), wanted)
    lengths = (source.square().sum(-1) + 1e-6).sqrt()[..., None] * (target.square().sum(-1) + 1e-6).sqrt()[
        :, None
    ]
    torch.testing.assert_close(correlate(source, target, smooth=True), source @ target.mT / lengths)


@pytest.mark.parametrize("smooth", [True, False])
def test_features_of_zero_correlate_to_zero(smooth):
    source = torch.zeros(1, 2, 3, requires_grad=True)
    found = correlate(source, torch.ones(1, 2, 3), smooth=smooth)
    found.sum().backward()
    assert (found == 0).all() and source.grad.isfinite().all()


def test_mutual_filter():
    found = mutual_filter(torch.tensor([[4.0, 2.0], [2.0, 8.0], [0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[4.0, 0.25], [0.25, 8.0], [0.0, 0.0]]))


def test_mutual_filter_is_symmetric():
    correlation = randn(2, 3, 7, 5)
    torch.testing.assert_close(mutual_filter(correlation.mT), mutual_filter(correlation).mT)


def test_mutual_filter_gradient():
    assert torch.autograd.gradcheck(mutual_filter, randn(2, 4, 3).requires_grad_())


@pytest.mark.parametrize("size, side", [((6, 6), 3), ((4, 8), 2), ((5, 7), 3), ((2, 2), 4)])
def test_correlation_with_pooled_features_is_the_pooled_correlation(size, side):
    source, target = randn(2, 11, 3), randn(2, size[0] * size[1], 3, seed=1)
    pooled = F.adaptive_avg_pool2d((source @ target.mT).unflatten(2, size), side).flatten(2)
    torch.testing.assert_close(source @ pool_rows(target, size, side).mT, pooled)


def test_upsampling_rows():
    rows = randn(2, 3, 16)
    found = upsample_rows(rows, (8, 12))
    wanted = F.interpolate(rows.view(6, 1, 4, 4), (8, 12), mode="bilinear").view(2, 3, 96)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(upsample_rows(rows, (4, 4)), rows)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1)])
def test_the_identity_has_no_flow(size):
    flow = read_flow(torch.eye(size[0] * size[1])[None], size)
    torch.testing.assert_close(flow, torch.zeros_like(flow), atol=1e-6, rtol=0)


def test_flow_of_one_hot_scores_points_there():
    size = (3, 5)
    places = torch.randint(0, 15, (15,), generator=torch.Generator().manual_seed(0))
    flow = read_flow(F.one_hot(places, 15).double()[None], size)[0]
    own = torch.arange(15)
    torch.testing.assert_close(flow[:, 0], (places % 5 - own % 5).double())
    torch.testing.assert_close(flow[:, 1], (places // 5 - own // 5).double())


def test_flow_of_some_rows():
    scores = randn(2, 15, 15)
    rows = slice(4, 9)
    torch.testing.assert_close(read_flow(scores[:, rows], (3, 5), rows), read_flow(scores, (3, 5))[:, rows])


def test_exactly_inverse_flows_are_trusted():
    """Everything moves by 2 cells to the right and 1 up; what leaves the image has no confidence."""
    flow = torch.tensor([2.0, -1.0])[None, :, None, None].expand(1, 2, 4, 6)
    found, confidence = select_flows([flow], [-flow])
    assert torch.equal(found, flow)
    inside = torch.zeros(4, 6)
    inside[1:, :4] = 1
    torch.testing.assert_close(confidence[0, 0], inside)


def test_the_first_of_equals_wins_and_the_worse_loses():
    still, moved = torch.zeros(1, 2, 4, 4), torch.full((1, 2, 8, 8), 0.5)
    flow, confidence = select_flows([still, moved, moved * 0], [still, moved, moved * 0])
    assert (flow == 0).all() and confidence.shape == (1, 3, 8, 8)
    assert (confidence[:, 0] == 1).all() and torch.equal(confidence[:, 0], confidence[:, 2])
    assert (confidence[:, 1] < 1).all()
    far = torch.full((1, 2, 4, 4), 100.0)
    flow, confidence = select_flows([far, 2 * far], [far, far])  # neither is to be trusted
    assert (flow == 100).all() and (confidence == 0).all()


def test_the_longer_side_measures_the_error():
    for size in ((4, 10), (10, 4)):
        flow, back = torch.zeros(2, 1, 2, *size)
        back[:, 0] = 0.5  # half a cell off, everywhere
        _, confidence = select_flows([flow], [back])
        torch.testing.assert_close(confidence, torch.full((1, 1, *size), math.exp(-0.5 / (0.05 * 10))))


def test_a_flow_counts_only_inside():
    still = torch.zeros(1, 2, 4, 4)
    inside = torch.arange(4)[:, None].expand(4, 4) >= 2
    _, confidence = select_flows([still, still], [still, still], [None, inside])
    assert torch.equal(confidence[0, 1], inside.float()) and (confidence[0, 0] == 1).all()


def test_selection_written_out():
    flows = [randn(2, 2, n, n, seed=n) for n in (3, 6)]
    backs = [randn(2, 2, n, n, seed=n + 1) for n in (3, 6)]
    found, confidences = select_flows(flows, backs)
    big = [F.interpolate(x, (6, 6), mode="bilinear") * (6 / x.shape[-1]) for x in (*flows, *backs)]
    own = grid_positions((6, 6), found)
    for b in range(2):
        for y in range(6):
            for x in range(6):
                wanted = []
                for level in range(2):
                    f = big[level][b, :, y, x]
                    p = own[:, y, x] + f
                    if not ((p >= 0) & (p <= 5)).all():
                        wanted.append(0.0)
                        continue
                    x0, y0 = (min(int(v), 4) for v in p)
                    u, v = p[0] - x0, p[1] - y0
                    m = big[2 + level][b]
                    top = m[:, y0, x0] * (1 - u) + m[:, y0, x0 + 1] * u
                    bottom = m[:, y0 + 1, x0] * (1 - u) + m[:, y0 + 1, x0 + 1] * u
                    error = (f + top * (1 - v) + bottom * v).norm()
                    wanted.append(float(torch.exp(-error / (0.05 * 6))))
                torch.testing.assert_close(confidences[b, :, y, x], torch.tensor(wanted, dtype=torch.float64))
                best = wanted.index(max(wanted))
                torch.testing.assert_close(found[b, :, y, x], big[best][b, :, y, x])
