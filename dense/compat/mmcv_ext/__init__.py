"""mmcv's compiled operators on plain PyTorch and numba, under the names and conventions of ``mmcv._ext``.

Where mmcv comes without compiled operators, :mod:`dense.compat.wheels` puts this in their place, so that the
layers in ``mmcv.ops`` run unchanged, on CPU and CUDA tensors alike. Every function takes what mmcv passes:
most fill output tensors given to them, and ``*_backward`` the zeros of their gradients. A file is imported
when the first of its operators is called. All that mmcv has for CPUs are here, and some that it has for GPUs
alone; the others say so when they are called.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module

FAMILIES = {
    "bezier_align": ("bezier_align_forward", "bezier_align_backward"),
    "carafe": ("carafe_forward", "carafe_backward", "carafe_naive_forward", "carafe_naive_backward"),
    "deform_conv": (
        "deform_conv_forward",
        "deform_conv_backward_input",
        "deform_conv_backward_parameters",
        "modulated_deform_conv_forward",
        "modulated_deform_conv_backward",
    ),
    "focal_loss": (
        "sigmoid_focal_loss_forward",
        "sigmoid_focal_loss_backward",
        "softmax_focal_loss_forward",
        "softmax_focal_loss_backward",
    ),
    "info": ("get_compiler_version", "get_compiling_cuda_version"),
    "masked_conv": ("masked_im2col_forward", "masked_col2im_forward"),
    "ms_deform_attn": ("ms_deform_attn_forward", "ms_deform_attn_backward"),
    "nms": ("nms", "softnms", "nms_match", "line_nms_forward"),
    "overlaps": ("bbox_overlaps",),
    "points_in_boxes": (
        "points_in_boxes_cpu_forward",
        "points_in_boxes_all_forward",
        "points_in_boxes_part_forward",
    ),
    "psa_mask": ("psamask_forward", "psamask_backward"),
    "roi": (
        "roi_align_forward",
        "roi_align_backward",
        "roi_pool_forward",
        "roi_pool_backward",
        "deform_roi_pool_forward",
        "deform_roi_pool_backward",
    ),
    "rotated": (
        "box_iou_rotated",
        "box_iou_quadri",
        "nms_rotated",
        "nms_quadri",
        "roi_align_rotated_forward",
        "roi_align_rotated_backward",
        "active_rotated_filter_forward",
        "active_rotated_filter_backward",
        "rotated_feature_align_forward",
        "rotated_feature_align_backward",
    ),
    "sync_bn": (
        "sync_bn_forward_mean",
        "sync_bn_forward_var",
        "sync_bn_forward_output",
        "sync_bn_backward_param",
        "sync_bn_backward_data",
    ),
    "text": ("contour_expand", "pixel_group"),
    "voxelize": ("dynamic_voxelize_forward", "hard_voxelize_forward"),
}
_FILES = {name: family for family, names in FAMILIES.items() for name in names}


@cache
def find_operator(name: str) -> Callable:
    """The operator that mmcv calls ``name``; of any name, since mmcv asks for all of them when imported."""

    def operator(*args, **kwargs):
        if name not in _FILES:
            raise NotImplementedError(
                f"mmcv's operator {name!r} has no portable form in dense; it needs a GPU and onedl-mmcv "
                "with compiled operators (a wheel built for your PyTorch, or MMCV_WITH_OPS=1 pip install "
                "--no-binary onedl-mmcv onedl-mmcv), which dense then leaves in place"
            )
        return getattr(import_module(f".{_FILES[name]}", __name__), name)(*args, **kwargs)

    operator.__name__ = name
    return operator
