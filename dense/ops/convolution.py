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
    last in memory, which spares a pass over the result.

    Args:
        activation: "relu", "gelu" (the exact one), "silu", or none.

    Raises:
        ValueError: an unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {list(ACTIVATIONS)}, found {activation!r}")
    if activation and ONEDNN and _is_channels_last(x) and use_onednn(x, weight):
        window = [[n, n] if isinstance(n, int) else list(n) for n in (padding, stride, dilation)]
        name = ONEDNN_NAMES.get(activation, activation)
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *window, groups, name, [], "none")
    return ACTIVATIONS[activation](F.conv2d(x, weight, bias, stride, padding, dilation, groups))


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
