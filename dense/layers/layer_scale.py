"""Residual branches with a learned factor a channel.

Source: Touvron et al., "Going Deeper with Image Transformers", ICCV 2021, arXiv 2103.17239.
"""

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """A factor for each channel: (..., C) to the same.

    Args:
        embed_dims: C.
        init: initial factor.
    """

    def __init__(self, embed_dims: int, init: float):
        super().__init__()
        self.gamma = make_scale(embed_dims, init)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def make_scale(embed_dims: int, init: float) -> nn.Parameter:
    """Factors (embed_dims,) that start at ``init``."""
    return nn.Parameter(torch.full((embed_dims,), float(init)))


def add_scaled(x: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
    """``x + scale * branch`` in one pass; ``x + branch`` where the scale is None."""
    return x + branch if scale is None else torch.addcmul(x, branch, scale)
