"""Content-aware upsampling: Wang et al., "CARAFE", ICCV 2019.

Each pixel of the output is a weighted sum of the k x k input pixels around its place. Features are
(B, C, H, W); masks (B, groups * k * k, s * H, s * W), the weights; the output (B, C, s * H, s * W).
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ._checks import check_shape


def carafe_forward(
    features, masks, rfeatures, routput, rmasks, output, kernel_size, group_size, scale_factor
):
    rfeatures.copy_(features)  # mmcv keeps this buffer for the backward pass, not the features
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    grad_output,
    rfeatures,
    masks,
    rgrad_output,
    rgrad_input_hs,
    rgrad_input,
    rgrad_masks,
    grad_input,
    grad_masks,
    kernel_size,
    group_size,
    scale_factor,
):
    carafe_naive_backward(
        grad_output, rfeatures, masks, grad_input, grad_masks, kernel_size, group_size, scale_factor
    )


def carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor):
    total = 0
    for pixels, weight, _ in _neighbours(features, masks, kernel_size, group_size, scale_factor):
        total = total + pixels * weight
    output.copy_(total.reshape(output.shape))


def carafe_naive_backward(
    grad_output, features, masks, grad_input, grad_masks, kernel_size, group_size, scale_factor
):
    pad = kernel_size // 2
    batch, channels, height, width = features.shape
    split = (batch, group_size, channels // group_size, height, scale_factor, width, scale_factor)
    grad_output = grad_output.reshape(split)
    grad_padded = F.pad(torch.zeros_like(features), [pad] * 4)
    grad_weights = masks.new_empty(batch, group_size, kernel_size**2, *split[3:])
    for tap, (pixels, weight, place) in enumerate(
        _neighbours(features, masks, kernel_size, group_size, scale_factor)
    ):
        grad_weights[:, :, tap] = (grad_output * pixels).sum(2)
        grad_padded[place] += (grad_output * weight).sum((4, 6)).reshape(features.shape)
    grad_masks.copy_(grad_weights.reshape(masks.shape))
    grad_input.copy_(grad_padded[:, :, pad : pad + height, pad : pad + width])


def _neighbours(features, masks, kernel_size, groups, scale) -> Iterator[tuple[Tensor, Tensor, tuple]]:
    """For each tap: pixels (B, G, C/G, H, 1, W, 1), weights (B, G, 1, H, s, W, s), place in the map."""
    pad = kernel_size // 2
    batch, channels, height, width = features.shape
    check_shape(masks, "masks", (batch, groups * kernel_size**2, scale * height, scale * width))
    padded = F.pad(features, [pad] * 4)
    weights = masks.reshape(batch, groups, kernel_size**2, height, scale, width, scale)
    for tap in range(kernel_size**2):
        y, x = divmod(tap, kernel_size)
        place = (..., slice(y, y + height), slice(x, x + width))
        pixels = padded[place].reshape(batch, groups, channels // groups, height, 1, width, 1)
        yield pixels, weights[:, :, tap, None], place
