import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, line_nms, nms, nms_match, soft_nms

from ...ops import reference


def make(num=60, dtype=torch.float64):
    centre, size = torch.rand(num, 2, dtype=dtype) * 20, torch.rand(num, 2, dtype=dtype) * 12 + 1
    return torch.cat((centre - size / 2, centre + size / 2), 1), torch.rand(num, dtype=dtype)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_nms(threshold, offset):
    boxes, scores = make()
    dets, index = nms(boxes, scores, threshold, offset)
    wanted, _ = reference.nms(
        boxes.tolist(), scores.tolist(), threshold, lambda a, b: reference.box_iou(a, b, offset)
    )
    assert index.tolist() == wanted
    assert torch.equal(dets, torch.cat((boxes, scores[:, None]), 1)[wanted])
    found = nms(boxes.numpy(), scores.numpy(), threshold, offset)[1]
    assert isinstance(found, np.ndarray) and found.tolist() == wanted


def test_nms_by_hand():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [0, 0, 0, 0], [0, 0, 0, 0], [10, 0, 14, 4]])
    scores = torch.tensor([0.5, 0.9, 0.3, 0.3, 0.9])
    # boxes without area overlap nothing; of equal scores the first comes first
    assert nms(boxes, scores, 0.5)[1].tolist() == [1, 4, 2, 3]
    assert nms(boxes, scores, 0.5, max_num=2)[1].tolist() == [1, 4]
    assert nms(boxes, scores, 0.5, score_threshold=0.4)[1].tolist() == [1, 4]
    assert nms(boxes, scores, 0.8)[1].tolist() == [1, 4, 0, 2, 3]  # an overlap of 0.8 is not more
    assert nms(boxes, scores, 0.79)[1].tolist() == [1, 4, 2, 3]


def test_threshold_is_exact_in_float32():
    boxes = torch.tensor([[0.0, 0, 5, 1], [0, 0, 3, 1]])  # overlap 0.6, which float32 rounds upwards
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1].tolist() == [0, 1]


def test_no_boxes():
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].shape == (0,)
    dets, index = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5) and index.shape == (0,)
    assert nms_match(torch.zeros(0, 5), 0.5) == []


def test_half():
    boxes, scores = make()
    for dtype in (torch.float16, torch.bfloat16):
        found = nms(boxes.to(dtype), scores.to(dtype), 0.5)[1]
        assert torch.equal(found, nms(boxes.to(dtype).float(), scores.to(dtype).float(), 0.5)[1])


def test_batched_nms_keeps_classes_apart():
    boxes, scores = make()
    classes = torch.randint(0, 3, (60,))
    _, index = batched_nms(boxes, scores, classes, {"type": "nms", "iou_threshold": 0.4})
    wanted = []
    for c in range(3):
        members = (classes == c).nonzero()[:, 0]
        kept, _ = reference.nms(boxes[members].tolist(), scores[members].tolist(), 0.4)
        wanted += members[kept].tolist()
    assert sorted(index.tolist()) == sorted(wanted)


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms(method):
    boxes, scores = make()
    dets, index = soft_nms(boxes, scores, 0.3, 0.5, 0.05, method)
    keep, final = reference.soft_nms(boxes.tolist(), scores.tolist(), 0.3, 0.5, 0.05, method)
    assert index.tolist() == keep
    torch.testing.assert_close(dets[:, :4], boxes[keep])
    torch.testing.assert_close(dets[:, 4], torch.tensor(final, dtype=torch.float64))


def test_nms_match():
    boxes, scores = make()
    groups = nms_match(torch.cat((boxes, scores[:, None]), 1), 0.4)
    keep, leader = reference.nms(boxes.tolist(), scores.tolist(), 0.4)
    assert [group[0].item() for group in groups] == keep
    for group in groups:
        members = [i for i in leader if leader[i] == group[0]]
        assert group.tolist() == sorted(members, key=lambda i: -scores[i])


def make_lanes(num=30, rows=12):
    first, count = torch.randint(0, 5, (num,)), torch.randint(1, 9, (num,))
    x = torch.rand(num, 1) * 60 + torch.rand(num, rows) * 5
    unused = torch.full((num, 1), torch.nan)
    start = first[:, None] / (rows - 1)
    return torch.cat((unused, unused, start, unused, count[:, None], x), 1), first, count


def test_line_nms():
    lanes, first, count = make_lanes()
    scores = torch.rand(30)

    def near(i, j):
        rows = range(max(first[i], first[j]), min(first[i] + count[i], first[j] + count[j], 12))
        return bool(rows) and sum(abs(lanes[i, 5 + r] - lanes[j, 5 + r]) for r in rows) / len(rows) < 10

    wanted, leader = reference.nms(range(30), scores.tolist(), 0, lambda i, j: int(near(i, j)))
    keep, num, parent = line_nms(lanes, scores, 10.0, 100)
    assert keep[:num].tolist() == wanted
    assert [wanted[p - 1] for p in parent.tolist()] == [leader[i] for i in range(30)]
    keep, num, _ = line_nms(lanes, scores, 10.0, 3)
    assert keep[:num].tolist() == wanted[:3]
