"""Multi-scale deformable attention; see :mod:`dense.ops.ms_deform_attn`."""

from ...ops.ms_deform_attn import ms_deform_attn
from ...ops.ms_deform_attn import ms_deform_attn_backward as backward


def ms_deform_attn_forward(value, shapes, starts, locations, weights, im2col_step):
    return ms_deform_attn(value, shapes, starts, locations, weights)


def ms_deform_attn_backward(
    value,
    shapes,
    starts,
    locations,
    weights,
    grad_output,
    grad_value,
    grad_locations,
    grad_weights,
    im2col_step,
):
    found = backward(grad_output, value, shapes, starts, locations, weights)
    for grad, values in zip((grad_value, grad_locations, grad_weights), found, strict=True):
        grad.copy_(values)
