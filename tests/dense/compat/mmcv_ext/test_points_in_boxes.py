import math

import pytest
import torch
from mmcv.ops import points_in_boxes_all, points_in_boxes_cpu, points_in_boxes_part

BOXES = torch.tensor([[0.0, 0, 1, 4, 2, 2, 0], [1, 0, 1, 4, 2, 2, math.pi / 2], [9, 9, 9, 0, 0, 0, 0]])


def test_by_hand():
    points = torch.tensor(
        [
            [0.0, 0, 2],  # in both
            [1.9, 0.9, 2],  # the same
            [-1.9, 0, 2],
            [1, 1.9, 2],
            [2, 0, 2],  # a side of the first; in the second, which has none there
            [-0.5, 0, 1],  # on the bottom
            [-0.5, 0, 3],  # on the top
            [-0.5, 0, 3.1],
            [9, 9, 9],
        ]
    )
    wanted = [
        [1, 0, 0],
        [1, 1, 0],
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 0],
        [1, 0, 0],
        [1, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]
    found = points_in_boxes_cpu(points[None], BOXES[None])
    assert found.dtype == torch.int32
    assert found[0].tolist() == wanted


@pytest.mark.parametrize("angle", [0.7, -2.0])
def test_a_turned_box_holds_what_turns_with_it(angle):
    points = torch.rand(2, 300, 3, dtype=torch.float64) * 6 - 3
    upright = torch.tensor([[0.0, 0, -1, 4, 2, 2, 0]]).expand(2, 1, 7)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], dtype=torch.float64)
    turned = upright + torch.tensor([1, 2, 3, 0, 0, 0, angle])
    found = points_in_boxes_cpu(points @ turn + torch.tensor([1, 2, 3]), turned)
    assert torch.equal(found, points_in_boxes_cpu(points, upright))
    assert 0 < found.sum() < found.numel()


def test_the_forms_of_gpus_agree():
    """mmcv itself has these on GPUs alone."""
    points, boxes = torch.rand(2, 200, 3) * 6 - 3, torch.rand(2, 5, 7) * 4 - 1
    inside = points_in_boxes_cpu(points, boxes)
    assert inside.any() and torch.equal(points_in_boxes_all(points, boxes), inside)
    first = torch.where(inside.any(2), inside.argmax(2), -1)
    assert torch.equal(points_in_boxes_part(points, boxes), first.int())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    points, boxes = (torch.rand(1, 20, 3) * 4).to(dtype), BOXES[None].to(dtype)
    wanted = points_in_boxes_cpu(points.float(), boxes.float())
    assert torch.equal(points_in_boxes_cpu(points.mT.contiguous().mT, boxes), wanted)


def test_none():
    assert points_in_boxes_cpu(torch.zeros(2, 0, 3), BOXES.expand(2, 3, 7)).shape == (2, 0, 3)
    assert points_in_boxes_cpu(torch.zeros(2, 4, 3), torch.zeros(2, 0, 7)).shape == (2, 4, 0)
    broken = torch.full((1, 1, 3), torch.nan)
    assert not points_in_boxes_cpu(broken, BOXES[None]).any()
