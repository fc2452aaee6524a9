"""The convolution of maps, with the activation behind it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .linear import ACTIVATIONS, ONEDNN_NAMES, use_onednn

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
Pair = int | tuple[int, int]


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
) -> Tensor:
    """``activation(conv2d(x, weight, bias, ...))``, else as :func:`torch.nn.functional.conv2d`.

    Inference on a CPU in float32 has oneDNN join the activation to a convolution of a map that is channels
    last in memory, which spares a pass over the result. Where each channel of such a map makes several of the
    result, these are as many depthwise convolutions, for which oneDNN is quick; groups of two channels, two.

    Args:
        activation: "relu", "gelu" (the exact one), "silu", or none.

    Raises:
        ValueError: an unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {list(ACTIVATIONS)}, found {activation!r}")
    if not (ONEDNN and _is_channels_last(x) and use_onednn(x, weight)):
        return ACTIVATIONS[activation](F.conv2d(x, weight, bias, stride, padding, dilation, groups))
    multiplier = len(weight) // groups
    if 1 < groups == x.shape[1] and multiplier > 1:
        weights = weight.unflatten(0, (groups, multiplier)).unbind(1)
        biases = [None] * multiplier if bias is None else bias.unflatten(0, (groups, multiplier)).unbind(1)
        how = stride, padding, dilation, groups
        parts = [conv2d(x, *own, *how, activation=activation) for own in zip(weights, biases, strict=True)]
        return torch.stack([part.permute(0, 2, 3, 1) for part in parts], -1).flatten(3).permute(0, 3, 1, 2)
    if multiplier == weight.shape[1] == 2 and groups > 1:
        return ACTIVATIONS[activation](_convolve_pairs(x, weight, bias, stride, padding, dilation))
    if activation:
        bias = None if bias is None else bias.contiguous()  # gaps would be read as if there were none
        window = [[n, n] if isinstance(n, int) else list(n) for n in (padding, stride, dilation)]
        name = ONEDNN_NAMES.get(activation, activation)
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *window, groups, name, [], "none")
    return ACTIVATIONS[activation](F.conv2d(x, weight, bias, stride, padding, dilation, groups))


def _convolve_pairs(x: Tensor, weight: Tensor, bias: Tensor | None, *how: Pair) -> Tensor:
    """Groups of two channels by two depthwise convolutions; one sees the channels of each group swapped."""
    weight = weight.unflatten(0, (-1, 2))  # (groups, out, in, k, k)
    straight = torch.stack((weight[:, 0, 0], weight[:, 1, 1]), 1).flatten(0, 1)[:, None]
    crossed = torch.stack((weight[:, 0, 1], weight[:, 1, 0]), 1).flatten(0, 1)[:, None]
    swapped = x.permute(0, 2, 3, 1).unflatten(-1, (-1, 2)).flip(-1).flatten(-2).permute(0, 3, 1, 2)
    y = F.conv2d(x, straight, bias, *how, len(straight))
    return y.add_(F.conv2d(swapped, crossed, None, *how, len(straight)))


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
