"""The affine map of the last axis, with what follows it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.backends import is_watched

# oneDNN's GELU and SiLU behind a product get the slower, the more columns were summed, on processors of AVX2
# (at 96 as slow as a second pass over memory, at 2,048 twenty times)
MOST_JOINED = 64
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
ACTIVATIONS = {None: lambda x: x, "relu": F.relu, "gelu": F.gelu, "silu": F.silu}
ONEDNN_NAMES = {None: "none", "silu": "swish"}
IN_PLACE = {"gelu": torch.ops.aten.gelu_, "silu": torch.ops.aten.silu_}


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    times: Tensor | None = None,
) -> Tensor:
    """``activation(x @ weight.T + bias)``, or ``(x @ weight.T + bias) * times``.

    Inference on a CPU in float32 goes through oneDNN, which joins ReLU and ``times`` to the product and, on
    processors for which MKL takes its slower path, has a product twice as fast as PyTorch's.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out), or none.
        activation: "relu", "gelu" (the exact one), "silu", or none.
        times: (..., out), or none.

    Returns:
        (..., out).

    Raises:
        ValueError: an unknown activation, or both an activation and ``times``.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {list(ACTIVATIONS)}, found {activation!r}")
    if activation is not None and times is not None:
        raise ValueError(f"times excludes an activation, found {activation!r}")
    if use_onednn(x, weight):
        bias = None if bias is None else bias.contiguous()  # gaps would be read as if there were none
        if times is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, times, weight, bias, "mul")
        after = IN_PLACE.get(activation) if x.shape[-1] > MOST_JOINED else None
        joined = "none" if after else ONEDNN_NAMES.get(activation, activation)
        y = torch.ops.mkldnn._linear_pointwise(x, weight, bias, joined, [], "none")
        return after(y) if after else y
    y = F.linear(x, weight, bias)
    return ACTIVATIONS[activation](y) if times is None else y * times


def use_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's operators with an activation can take these."""
    # the operator has no gradient and takes float32; who compiles, traces or counts wants plain PyTorch
    return (
        ONEDNN
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not is_watched()
        and {type(x), type(weight)} <= {Tensor, nn.Parameter}
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
    )
