import math

import pytest
import torch
from mmcv.ops import (
    active_rotated_filter,
    box_iou_quadri,
    box_iou_rotated,
    nms_quadri,
    nms_rotated,
    roi_align_rotated,
)
from shapely.affinity import rotate, translate
from shapely.geometry import Polygon, box

from dense.ops import roi_align as upright_roi_align

from ...ops import reference


def make(num=24, dtype=torch.float64):
    centre, size = torch.rand(num, 2, dtype=dtype) * 10, torch.rand(num, 2, dtype=dtype) * 8 + 0.5
    return torch.cat((centre, size, torch.randn(num, 1, dtype=dtype) * 3), 1)


def to_polygon(x, y, width, height, angle):
    """Shapely turns from x towards y, too, whichever way these point."""
    upright = box(-width / 2, -height / 2, width / 2, height / 2)
    return translate(rotate(upright, angle, origin=(0, 0), use_radians=True), x, y)


def overlap(a, b, over_first=False):
    shared = a.intersection(b).area
    return shared / a.area if over_first else shared / a.union(b).area


def to_quads(boxes):
    return torch.tensor([to_polygon(*b).exterior.coords[:4] for b in boxes.tolist()]).flatten(1).double()


@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_rotated_overlaps(mode):
    first, second = make(), make()
    polygons = [[to_polygon(*b) for b in boxes.tolist()] for boxes in (first, second)]
    wanted = torch.tensor([[overlap(a, b, mode == "iof") for b in polygons[1]] for a in polygons[0]])
    torch.testing.assert_close(box_iou_rotated(first, second, mode), wanted.double(), rtol=1e-6, atol=1e-6)
    pairs = box_iou_rotated(first, second, mode, aligned=True)
    torch.testing.assert_close(pairs, wanted.diagonal().double(), rtol=1e-6, atol=1e-6)
    other_way = [b * b.new_tensor([1, 1, 1, 1, -1]) for b in (first, second)]
    torch.testing.assert_close(
        box_iou_rotated(*other_way, mode, clockwise=False), box_iou_rotated(first, second, mode)
    )


def test_overlaps_by_hand():
    boxes = torch.tensor([[0.0, 0, 2, 2, 0], [0, 0, 2, 2, math.pi / 4], [1, 0, 2, 2, 0], [0, 0, 0, 2, 1]])
    octagon = 8 * (math.sqrt(2) - 1)  # of in-radius 1
    wanted = [1, octagon / (8 - octagon), 1 / 3, 0]
    torch.testing.assert_close(box_iou_rotated(boxes[:1], boxes)[0], torch.tensor(wanted))
    far = boxes + torch.tensor([1000.0, 2000, 0, 0, 0])  # large coordinates cost no precision
    torch.testing.assert_close(box_iou_rotated(far[:1], far)[0], torch.tensor(wanted))
    assert box_iou_rotated(boxes[:0], boxes).shape == (0, 4)


def test_quadrilateral_overlaps():
    first = torch.rand(24, 1, 2).double() * 6 + torch.tensor([[0, 0], [5, 1], [4, 6], [-1, 4]])
    second = torch.rand(24, 1, 2).double() * 6 + torch.tensor([[-1, 4], [4, 6], [5, 1], [0, 0]])  # clockwise
    polygons = [[Polygon(q) for q in quads.tolist()] for quads in (first, second)]
    wanted = torch.tensor([[overlap(a, b) for b in polygons[1]] for a in polygons[0]]).double()
    found = box_iou_quadri(first.flatten(1), second.flatten(1))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_nms():
    boxes, scores = make(), torch.rand(24).double()
    polygons = [to_polygon(*b) for b in boxes.tolist()]
    wanted, _ = reference.nms(polygons, scores.tolist(), 0.2, overlap)
    dets, index = nms_rotated(boxes, scores, 0.2)
    assert index.tolist() == wanted
    torch.testing.assert_close(dets, torch.cat((boxes, scores[:, None]), 1)[wanted])
    assert nms_quadri(to_quads(boxes), scores, 0.2)[1].tolist() == wanted
    labels = torch.arange(24).double()  # which make no difference
    assert nms_rotated(boxes, scores, 0.2, labels)[1].tolist() == wanted


@pytest.mark.parametrize(
    ("ratio", "aligned", "clockwise"), [(0, True, False), (0, False, True), (2, True, True)]
)
def test_roi_align(ratio, aligned, clockwise):
    maps = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    rois = torch.cat((torch.tensor([[0.0], [1], [1], [0]]), make(4) * 3), 1)
    rois[3, 3:5] = 0  # no size
    arguments = ((2, 3), 0.25, ratio, aligned, clockwise)
    found = roi_align_rotated(maps, rois, *arguments)
    if ratio == 0 and aligned:
        assert not found[3].any()
        wanted = reference.roi_align_rotated(maps, rois[:3], *arguments)
        torch.testing.assert_close(found[:3], wanted)
    else:
        torch.testing.assert_close(found, reference.roi_align_rotated(maps, rois, *arguments))
    maps.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: roi_align_rotated(x, rois, *arguments), (maps,), fast_mode=True)


def test_upright_is_roi_align():
    maps = torch.randn(1, 3, 7, 9)
    found = roi_align_rotated(maps, torch.tensor([[0, 4.0, 3.0, 5.0, 4.0, 0.0]]), (2, 2), 1.0, 2)
    torch.testing.assert_close(found, upright_roi_align(maps, torch.tensor([[0, 1.5, 1, 6.5, 5]]), 2, 1.0, 2))


def test_active_rotated_filter():
    out, planes, orientations, size, rotations = 2, 3, 2, 3, 4
    entries = orientations * size * size
    filters = torch.randn(out, planes, orientations, size, size, dtype=torch.float64, requires_grad=True)
    places = torch.stack([torch.randperm(entries) for _ in range(rotations)], 1)
    indices = (places + 1).int().view(orientations, size, size, rotations)
    wanted = torch.empty(out, rotations, planes, entries, dtype=torch.float64)
    for entry in range(entries):
        for r in range(rotations):
            wanted[:, r, :, places[entry, r]] = filters.detach().flatten(2)[:, :, entry]
    found = active_rotated_filter(filters, indices)
    assert torch.equal(found, wanted.view(out * rotations, planes * orientations, size, size))
    assert torch.autograd.gradcheck(lambda x: active_rotated_filter(x, indices), (filters,))


@pytest.mark.parametrize("place", range(5))
def test_a_box_with_nan_suppresses_nothing(place):
    """Nor is it suppressed: as mmcv's compiled kernels, whose comparison with NaN is false."""
    boxes = torch.tensor(
        [[50.0, 50, 20, 10, 0.1], [100, 100, 20, 10, 0], [10, 10, 8, 8, 0.3], [10, 10, 8, 8, 0.3]]
    )
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    for bad in (0, 1):
        broken = boxes.clone()
        broken[bad, place] = torch.nan
        assert nms_rotated(broken, scores, 0.5)[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("place", range(8))
def test_a_quadrilateral_with_nan_suppresses_nothing(place):
    square = torch.tensor([0.0, 0, 10, 0, 10, 10, 0, 10])
    quads = torch.stack([square, square + 20, square + 40, square + 40])
    quads[0, place] = torch.nan
    assert nms_quadri(quads, torch.tensor([0.9, 0.8, 0.7, 0.6]), 0.5)[1].tolist() == [0, 1, 2]
