"""Deformable convolution: Dai et al., ICCV 2017; modulated: Zhu et al., "Deformable ConvNets v2", CVPR 2019.

Offsets are (B, deform_groups * kernel * 2, H, W), y before x for each tap of the kernel; masks
(B, deform_groups * kernel, H, W), with H and W of the output.
"""

import torch
from torch import Tensor

from ...ops.sampling import Taps, check_maps, cross_taps, linear_taps, sum_rows, to_rows
from ._checks import check_shape
from ._gradients import fill_gradients

COLUMNS = 2**25  # numbers of the unfolded input at once, which are a few images; bounds the memory


def deform_conv_forward(input, weight, offset, output, columns, ones, im2col_step, **geometry):
    output.copy_(_convolve(input, offset, None, weight, None, **_read(geometry)))


def deform_conv_backward_input(
    input, offset, grad_output, grad_input, grad_offset, weight, columns, im2col_step, **geometry
):
    geometry = _read(geometry)

    def run(x, o):
        return _convolve(x, o, None, weight, None, **geometry)

    fill_gradients(run, [input, offset], grad_output, [grad_input, grad_offset])


def deform_conv_backward_parameters(
    input, offset, grad_output, grad_weight, columns, ones, scale, im2col_step, **geometry
):
    geometry = _read(geometry)

    def run(w):
        return _convolve(input, offset, None, w, None, **geometry)

    fill_gradients(run, [grad_weight], grad_output * scale, [grad_weight])


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, with_bias, **geometry
):
    output.copy_(_convolve(input, offset, mask, weight, bias if with_bias else None, **_read(geometry)))


def modulated_deform_conv_backward(
    input,
    weight,
    bias,
    ones,
    offset,
    mask,
    columns,
    grad_input,
    grad_weight,
    grad_bias,
    grad_offset,
    grad_mask,
    grad_output,
    with_bias,
    **geometry,
):
    geometry = _read(geometry)

    def run(x, o, m, w):
        return _convolve(x, o, m, w, None, **geometry)

    grads = [grad_input, grad_offset, grad_mask, grad_weight]
    fill_gradients(run, [input, offset, mask, weight], grad_output, grads)
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3)))


def _read(geometry: dict) -> dict:
    """mmcv names the same numbers in two ways."""
    if "kW" in geometry:
        names = {"stride": ("dH", "dW"), "padding": ("padH", "padW"), "dilation": ("dilationH", "dilationW")}
    else:
        names = {
            "stride": ("stride_h", "stride_w"),
            "padding": ("pad_h", "pad_w"),
            "dilation": ("dilation_h", "dilation_w"),
        }
    pairs = {field: (geometry[h], geometry[w]) for field, (h, w) in names.items()}
    return {**pairs, "groups": geometry["group"], "deform_groups": geometry["deformable_group"]}


def _convolve(
    input, offset, mask, weight, bias, stride, padding, dilation, groups: int, deform_groups: int
) -> Tensor:
    check_maps(input, "input")
    channels_out, _, *kernel = weight.shape
    check_shape(weight, "weight", (channels_out, input.shape[1] // groups, *kernel))
    taps = kernel[0] * kernel[1]
    out_size = torch.Size(
        (input.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    )
    offset = _read_as(offset, "offset", len(input), (deform_groups * taps * 2, *out_size))
    mask = None if mask is None else _read_as(mask, "mask", len(input), (deform_groups * taps, *out_size))
    per_group = weight.reshape(groups, channels_out // groups, -1, taps).transpose(2, 3).flatten(2)
    step = max(1, COLUMNS // (out_size.numel() * taps * input.shape[1]))
    outputs = []
    for first in range(0, len(input), step):
        part = slice(first, first + step)
        columns = _unfold(
            input[part],
            offset[part],
            None if mask is None else mask[part],
            kernel,
            stride,
            padding,
            dilation,
            deform_groups,
        )
        columns = columns.view(-1, taps, groups, input.shape[1] // groups).permute(2, 0, 1, 3).flatten(2)
        outputs.append((columns @ per_group.transpose(1, 2)).transpose(0, 1).flatten(1))  # (pixels, out)
    output = torch.cat(outputs)
    output = output if bias is None else output + bias
    return output.view(len(input), *out_size, channels_out).permute(0, 3, 1, 2)


def _read_as(tensor: Tensor, name: str, batch: int, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape), as mmcv's kernel reads it: without a look at the shape.

    Dynamic Head hands the offsets of a larger map to a smaller one, and was trained so.
    """
    if len(tensor) != batch:
        raise ValueError(f"{name} must be of {batch} images, as the input, found {len(tensor)}")
    found, wanted = tensor.shape[1:].numel(), torch.Size(shape).numel()
    if found < wanted:
        raise ValueError(f"{name} of an image must be {shape}, found {tuple(tensor.shape[1:])}")
    return tensor if tensor.shape[1:] == shape else tensor.flatten(1)[:, :wanted].reshape(-1, *shape)


def _unfold(input, offset, mask, kernel, stride, padding, dilation, deform_groups) -> Tensor:
    """What each output pixel sees: (B, H_out, W_out, kernel, C)."""
    batch, _, height, width = input.shape
    device = input.device
    kernel_h, kernel_w = kernel
    shape = (batch, deform_groups, kernel_h, kernel_w)
    out_h, out_w = offset.shape[2:]
    offset = offset if offset.dtype == torch.float64 else offset.float()
    offset = offset.view(*shape, 2, out_h, out_w).permute(0, 5, 6, 2, 3, 1, 4)  # (B, H, W, kh, kw, groups, 2)

    def regular(num: int, axis: int) -> Tensor:
        centre = torch.arange(num, device=device) * stride[axis] - padding[axis]
        return centre[:, None] + torch.arange(kernel[axis], device=device) * dilation[axis]  # (num, kernel)

    y = offset[..., 0] + regular(out_h, 0)[:, None, :, None, None]
    x = offset[..., 1] + regular(out_w, 1)[:, None, :, None]
    taps = cross_taps(linear_taps(y, height), linear_taps(x, width), width)  # (B, H, W, kh, kw, groups, 4)
    image = torch.arange(batch, dtype=torch.int32, device=device).view(-1, *[1] * 6) * (height * width)
    group = torch.arange(deform_groups, dtype=torch.int32, device=device)[:, None]
    weight = taps.weight
    if mask is not None:
        weight = weight * mask.view(*shape, out_h, out_w).permute(0, 4, 5, 2, 3, 1)[..., None]
    index = (taps.index + image) * deform_groups + group
    return sum_rows(to_rows(input, deform_groups), Taps(index, weight)).flatten(3, 4).flatten(4)
