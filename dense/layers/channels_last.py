"""Layers of maps (B, C, H, W) on maps whose last axis is the channels."""

from collections.abc import Callable

from torch import Tensor


def on_channels_last(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``layer`` of (B, C, H, W), as a convolution or a pooling, on (B, H, W, C) without a copy."""
    return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
