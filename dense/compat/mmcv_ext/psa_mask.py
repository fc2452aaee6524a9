"""Point-wise spatial attention: Zhao et al., "PSANet", ECCV 2018.

Each pixel has a mask of weights for the pixels around it, (B, mask_h * mask_w, H, W), which is laid out by
absolute place: (B, H * W, H, W). Collecting (type 0) puts the weights of pixel (h, w) in the channels at
(h, w); distributing (type 1) puts them in the map of the channel h * W + w.
"""

import torch
from torch.nn import functional as F


def psamask_forward(
    input, output, psa_type, num_, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask
):
    size, mask = (h_feature, w_feature), (h_mask, w_mask)
    around = F.pad(input.view(num_, *mask, *size), (0, 0, 0, 0, *_margins(size, mask)))
    # contiguous() would leave the strides of no images as they are
    by_pixel = around.permute(0, 3, 4, 1, 2).clone(memory_format=torch.contiguous_format)
    output.copy_(_absolute(by_pixel, size, psa_type).reshape(output.shape))


def psamask_backward(
    grad_output,
    grad_input,
    psa_type,
    num_,
    h_feature,
    w_feature,
    h_mask,
    w_mask,
    half_h_mask,
    half_w_mask,
):
    size, mask = (h_feature, w_feature), (h_mask, w_mask)
    by_pixel = grad_output.new_zeros(num_, *size, 2 * h_feature - 1, 2 * w_feature - 1)
    absolute = _absolute(by_pixel, size, psa_type)
    absolute.copy_(grad_output.reshape(absolute.shape))
    around = F.pad(by_pixel.permute(0, 3, 4, 1, 2), (0, 0, 0, 0, *(-m for m in _margins(size, mask))))
    grad_input.copy_(around.reshape(grad_input.shape))


def _margins(size, mask):
    """What to add to masks, last axis first, so that they reach every pixel from every other, and no more."""
    for axis in (1, 0):
        before = size[axis] - 1 - (mask[axis] - 1) // 2
        yield from (before, 2 * size[axis] - 1 - mask[axis] - before)


def _absolute(by_pixel, size, psa_type):
    """A view of masks (B, H, W, 2H - 1, 2W - 1), where the offset of (h, w) to itself is (H - 1, W - 1).

    The target (y, x) seen from (h, w) is at the offset (y - h + H - 1, x - w + W - 1): affine, hence strides.
    """
    height, width = size
    batch_step, h_step, w_step, y_step, x_step = by_pixel.stride()
    absolute = by_pixel.as_strided(
        (len(by_pixel), height, width, height, width),  # y, x, h, w
        (batch_step, y_step, x_step, h_step - y_step, w_step - x_step),
        by_pixel.storage_offset() + (height - 1) * y_step + (width - 1) * x_step,
    )
    return absolute if psa_type == 0 else absolute.permute(0, 3, 4, 1, 2)
