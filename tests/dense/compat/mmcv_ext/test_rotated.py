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
    rotated_feature_align,
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


def make_refined(dtype=torch.float64):
    boxes = torch.rand(2, 5, 6, 5, dtype=dtype) * torch.tensor([60, 60, 40, 20, 6]) - torch.tensor(
        [10, 10, 0, 0, 3]
    )
    return torch.randn(2, 3, 5, 6, dtype=dtype), boxes.to(dtype)


@pytest.mark.parametrize("points", [1, 5])
def test_rotated_feature_align(points):
    maps, boxes = make_refined()
    found = rotated_feature_align(maps, boxes, 0.125, points)
    torch.testing.assert_close(found, reference.rotated_feature_align(maps, boxes, 0.125, points))
    maps.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: rotated_feature_align(x, boxes, 0.125, points), (maps,), fast_mode=True
    )


def test_rotated_feature_align_by_hand():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)  # x of each pixel
    box = torch.tensor([32.0, 24, 16, 8, math.pi / 2])  # y first
    found = rotated_feature_align(ramp.contiguous(), box.expand(1, 8, 8, 5), 0.125)
    assert torch.equal(found, ramp + 3)
    found = rotated_feature_align(ramp.mT, box.expand(1, 8, 8, 5), 0.125, points=5)  # y of each pixel
    torch.testing.assert_close(found, ramp.mT + 5 * 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rotated_feature_align_in_dtypes(dtype):
    maps, boxes = make_refined(dtype)
    maps.requires_grad_()
    found = rotated_feature_align(maps, boxes, 0.125, 5)
    wanted = reference.rotated_feature_align(maps.detach().double(), boxes.double(), 0.125, 5)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=0.05, atol=0.05)
    found.sum().backward()
    assert maps.grad.dtype == dtype and maps.grad.any()
    assert rotated_feature_align(maps[:0], boxes[:0]).shape == (0, 3, 5, 6)


def test_rotated_feature_align_of_other_sizes():
    maps, boxes = make_refined()
    with pytest.raises(ValueError, match=r"best_rbboxes must be \(2, 5, 6, 5\), found \(2, 5, 5, 5\)"):
        rotated_feature_align(maps, boxes[:, :, 1:])
    with pytest.raises(ValueError, match=r"features must be floating \(B, C, H, W\), found torch.int64"):
        rotated_feature_align(maps.long(), boxes)


def test_bad_input():
    """Most of which would read memory of others."""
    for function, columns in ((box_iou_rotated, 5), (box_iou_quadri, 8)):
        boxes = torch.rand(3, columns)
        for first, second in ((boxes, boxes[:2]), (boxes[:2], boxes)):
            message = f"aligned boxes are pairs, found {len(first)} and {len(second)}"
            with pytest.raises(ValueError, match=message):
                function(first, second, aligned=True)
        with pytest.raises(ValueError, match=rf"must be \(3, {columns}\), found \(3, 4\)"):
            function(boxes[:, :4], boxes)
    for function, boxes in ((nms_rotated, torch.rand(3, 5)), (nms_quadri, torch.rand(3, 8))):
        with pytest.raises(ValueError, match=r"scores must be \(3,\), found \(2,\)"):
            function(boxes, torch.rand(2), 0.5)
    filters = torch.rand(2, 3, 2, 3, 3)
    with pytest.raises(ValueError, match="indices must be 1 to 18, found 0 to 0"):
        active_rotated_filter(filters, torch.zeros(2, 3, 3, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"indices must be \(2, 3, 3, 4\), found \(1, 3, 3, 4\)"):
        active_rotated_filter(filters, torch.ones(1, 3, 3, 4, dtype=torch.int32))
