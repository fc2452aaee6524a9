"""Every operator under the spellings that callers have: dtypes, strides, no boxes."""

import pytest
import torch
from mmcv import ops
from torch import Tensor


def boxes(num: int) -> Tensor:
    corner = torch.rand(num, 2) * 20
    return torch.cat((corner, corner + torch.rand(num, 2) * 10 + 1), 1)


def rotated(num: int) -> Tensor:
    return torch.cat((torch.rand(num, 2) * 20, torch.rand(num, 2) * 10 + 1, torch.rand(num, 1)), 1)


def with_image(rows: Tensor) -> Tensor:
    return torch.nn.functional.pad(rows, (1, 0))


def rand(*shape: int) -> Tensor:
    return torch.rand(shape)


LABELS = torch.tensor([0, 4, 2, 1, 0, 3])
TURNS = torch.stack([torch.arange(18).roll(i) + 1 for i in range(4)], 1).int().view(2, 3, 3, 4)

# by name: what is called, with what; n is the number of boxes, points or rows
CALLS = {
    "nms": (lambda b, s: ops.nms(b, s, 0.3), lambda n: (boxes(n), rand(n))),
    "nms by keywords": (
        lambda b, s: ops.nms(boxes=b, scores=s, iou_threshold=0.3, offset=1, score_threshold=0.2, max_num=3),
        lambda n: (boxes(n), rand(n)),
    ),
    "soft_nms": (lambda b, s: ops.soft_nms(b, s, 0.3, method="gaussian"), lambda n: (boxes(n), rand(n))),
    "nms_match": (
        lambda b: [torch.tensor(list(g)) for g in ops.nms_match(b, 0.3)],
        lambda n: (torch.cat((boxes(n), rand(n, 1)), 1),),
    ),
    "nms_rotated": (lambda b, s: ops.nms_rotated(b, s, 0.3), lambda n: (rotated(n), rand(n))),
    "nms_quadri": (
        lambda b, s: ops.nms_quadri(b, s, 0.3),
        lambda n: (boxes(n)[:, [0, 1, 2, 1, 2, 3, 0, 3]], rand(n)),
    ),
    "box_iou_rotated": (ops.box_iou_rotated, lambda n: (rotated(n), rotated(3))),
    "box_iou_quadri": (
        lambda a, b: ops.box_iou_quadri(bboxes1=a, bboxes2=b, mode="iof", aligned=True),
        lambda n: [boxes(n)[:, [0, 1, 2, 1, 2, 3, 0, 3]] for _ in range(2)],
    ),
    "bbox_overlaps": (ops.bbox_overlaps, lambda n: (boxes(n), boxes(3))),
    "roi_align": (
        lambda x, r: ops.roi_align(x, r, 3, 0.5),
        lambda n: (rand(2, 4, 9, 11), with_image(boxes(n))),
    ),
    "roi_align max": (
        lambda x, r: ops.RoIAlign(output_size=(3, 2), spatial_scale=0.5, pool_mode="max", aligned=False)(
            x, r
        ),
        lambda n: (rand(2, 4, 9, 11), with_image(boxes(n))),
    ),
    "roi_pool": (
        lambda x, r: ops.roi_pool(x, r, 3, 0.5),
        lambda n: (rand(2, 4, 9, 11), with_image(boxes(n))),
    ),
    "roi_align_rotated": (
        lambda x, r: ops.RoIAlignRotated(3, 0.5, 2, clockwise=True)(x, r),
        lambda n: (rand(2, 4, 9, 11), with_image(rotated(n))),
    ),
    "deform_roi_pool": (
        lambda x, r, o: ops.deform_roi_pool(x, r, o, (3, 3), 0.5),
        lambda n: (rand(2, 4, 9, 11), with_image(boxes(n)), rand(n, 2, 3, 3)),
    ),
    "deform_conv2d": (
        lambda x, o, w: ops.deform_conv2d(x, o, w, 1, 1),
        lambda n: (rand(2, 4, 9, 11), rand(2, 18, 9, 11), rand(6, 4, 3, 3)),
    ),
    "modulated_deform_conv2d": (
        lambda x, o, m, w, b: ops.modulated_deform_conv2d(x, o, m, w, b, 1, 1),
        lambda n: (rand(2, 4, 9, 11), rand(2, 18, 9, 11), rand(2, 9, 9, 11), rand(6, 4, 3, 3), rand(6)),
    ),
    "sigmoid_focal_loss": (
        lambda x, w: ops.sigmoid_focal_loss(x, LABELS[: len(x)], 2.0, 0.25, w, "sum"),
        lambda n: (rand(n, 5), rand(5)),
    ),
    "softmax_focal_loss": (
        lambda x: ops.softmax_focal_loss(x, LABELS[: len(x)], 2.0, 0.25, None, "none"),
        lambda n: (rand(n, 5),),
    ),
    "carafe": (lambda x, m: ops.carafe(x, m, 3, 1, 2), lambda n: (rand(n, 4, 5, 6), rand(n, 9, 10, 12))),
    "psa_mask": (lambda x: ops.PSAMask("distribute", (5, 5))(x), lambda n: (rand(n, 25, 3, 4),)),
    "active_rotated_filter": (
        lambda x: ops.active_rotated_filter(x, TURNS),
        lambda n: (rand(n, 3, 2, 3, 3),),
    ),
    "rotated_feature_align": (
        lambda x, b: ops.rotated_feature_align(features=x, best_rbboxes=b, points=5),
        lambda n: (rand(n, 4, 9, 11), rand(n, 9, 11, 5) * 40),
    ),
    "bezier_align": (
        lambda x, b: ops.bezier_align(x, b, 3, 1.0, 2),
        lambda n: (rand(2, 4, 9, 11), with_image(rand(n, 16) * 9)),
    ),
    "voxelization": (
        lambda p: ops.voxelization(p, [4, 4, 4], [0, 0, 0, 8, 8, 8], 3, 20),
        lambda n: (rand(n, 4) * 10,),
    ),
    "points_in_boxes_cpu": (ops.points_in_boxes_cpu, lambda n: (rand(1, n, 3) * 5, rand(1, 3, 7) * 5)),
}

KINDS = {
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "strided": lambda x: torch.stack((x, x + 1), -1)[..., 0],
    "wants gradients": lambda x: x.clone().requires_grad_(),
}


def tensors(found) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else [x for x in found if x is not None]


@pytest.mark.parametrize("num", [6, 1, 0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_as_in_float64(name, kind, num):
    call, make = CALLS[name]
    torch.manual_seed(1)
    inputs = [KINDS[kind](x) for x in make(num)]
    found, wanted = tensors(call(*inputs)), tensors(call(*[x.detach().double() for x in inputs]))
    assert len(found) == len(wanted)
    tolerance = 1e-4 if inputs[0].dtype == torch.float32 else 0.05
    for one, other in zip(found, wanted, strict=True):
        if one.is_floating_point():
            assert one.dtype == inputs[0].dtype and other.dtype == torch.float64
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance)
