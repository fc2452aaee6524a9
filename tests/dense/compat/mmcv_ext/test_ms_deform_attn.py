import torch
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

from ...ops.test_ms_deform_attn import make


def test_as_mmcv_without_extension():
    value, shapes, starts, locations, weights = make()
    found = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    wanted = multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
    torch.testing.assert_close(found, wanted)


def test_gradient():
    value, shapes, starts, locations, weights = make(batch=1, queries=2, points=2)
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    assert torch.autograd.gradcheck(
        lambda v, x, w: MultiScaleDeformableAttnFunction.apply(v, shapes, starts, x, w, 64), inputs
    )
