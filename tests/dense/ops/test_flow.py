"""Flows by hand: positions, soft argmax, sampling and resizing."""

import pytest
import torch

from dense.ops.flow import grid_positions, resize_flow, sample_at, soft_argmax


def test_positions_are_x_then_y():
    x, y = grid_positions((2, 3), torch.zeros(1, dtype=torch.float64))
    assert x.tolist() == [[0, 1, 2], [0, 1, 2]] and y.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert x.dtype == torch.float64


def test_soft_argmax_of_one_hot_scores_is_their_place():
    axes = torch.arange(5.0), torch.arange(3.0)  # of columns, of rows
    found = soft_argmax(torch.eye(15), axes)
    wanted = [[column, row] for row in range(3) for column in range(5)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float32))


def test_soft_argmax_weighs_by_the_softmax():
    scores = torch.tensor([0.0, 0.0, 0.5 * torch.tensor(3.0).log(), 0.0])  # 1 1 3 1 at a temperature of 0.5
    found = soft_argmax(scores, (torch.tensor([0.0, 6.0]), torch.tensor([0.0, 12.0])), beta=0.5)
    torch.testing.assert_close(found, torch.tensor([2.0, 8.0]))


def test_soft_argmax_of_huge_scores_is_finite():
    scores = torch.tensor([[1e4, -1e4, 0.0, 1e4]])
    found = soft_argmax(scores, (torch.arange(2.0), torch.arange(2.0)))
    assert found.tolist() == [[0.5, 0.5]]


def test_soft_argmax_gradient():
    axes = tuple(torch.linspace(-1, 1, n, dtype=torch.float64, requires_grad=True) for n in (3, 2))
    scores = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, x, y: soft_argmax(s, (x, y), 0.7), (scores, *axes))


def test_soft_argmax_of_other_positions():
    with pytest.raises(ValueError, match=r"2 x 3 positions, found 7"):
        soft_argmax(torch.zeros(4, 7), (torch.arange(3.0), torch.arange(2.0)))


def test_sampling_between_cells_and_beyond_the_border():
    maps = torch.arange(6.0).view(1, 1, 2, 3)  # rows 0 1 2 and 3 4 5
    positions = torch.tensor([[0.0, 2.0, 0.5, 1.0, -3.0, 9.0], [0.0, 1.0, 0.0, 0.5, 0.0, 1.0]])
    found = sample_at(maps, positions.view(1, 2, 1, 6)).flatten()
    torch.testing.assert_close(found, torch.tensor([0.0, 5.0, 0.5, 2.5, 0.0, 5.0]))


def test_sampling_a_single_cell():
    found = sample_at(torch.full((1, 2, 1, 1), 7.0), torch.randn(1, 2, 4, 4))
    assert (found == 7).all()


def test_sampling_at_all_cells_is_the_map():
    maps = torch.randn(2, 3, 4, 5)
    positions = grid_positions((4, 5), maps).expand(2, -1, -1, -1)
    torch.testing.assert_close(sample_at(maps, positions), maps)


def test_a_resized_flow_is_in_the_new_cells():
    flow = torch.tensor([1.0, -2.0])[None, :, None, None].expand(1, 2, 2, 4)
    found = resize_flow(flow, (6, 8))
    assert found.shape == (1, 2, 6, 8)
    assert (found[:, 0] == 2).all() and (found[:, 1] == -6).all()
    assert resize_flow(flow, (2, 4)) is flow


def test_a_resized_affine_flow_stays_affine_within():
    """Cells of the fine grid lie at (i + 1/2) G / g - 1/2 of the coarse one's."""
    flow = torch.stack([3 * grid_positions((4, 4), torch.zeros(()))[0], torch.zeros(4, 4)])[None]
    found = resize_flow(flow, (8, 8))[0, 0, 0]
    wanted = 2 * 3 * ((torch.arange(8) + 0.5) / 2 - 0.5).clamp(0, 3)
    torch.testing.assert_close(found, wanted)
