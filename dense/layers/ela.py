"""Efficient local attention: gates of rows and columns by 1-D convolutions of their means.

Source: Xu, Wan, "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", 2024, arXiv
2403.01123.
"""

from math import gcd

import torch
from torch import Tensor, nn

from ..registry import MODELS

# kernel, channels that the convolution mixes, groups of the norm
VARIANTS = {"T": (5, 1, 32), "B": (7, 1, 16), "S": (5, 8, 16), "L": (7, 8, 16)}


@MODELS.register_module()
class ELA(nn.Module):
    r"""Each pixel times a gate of its row and a gate of its column: (B, C, H, W) to the same.

    .. math:: y_{cij} = x_{cij}\, a^h_{ci}\, a^w_{cj}, \quad
        a^h = \sigma(\mathrm{GN}(\mathrm{conv}(\bar x_{ci\cdot}))), \quad
        a^w = \sigma(\mathrm{GN}(\mathrm{conv}(\bar x_{c\cdot j})))

    The means are taken in float32 at least. Group norms see one image, one direction at a time. A plugin of
    MMDetection's and MMSegmentation's ResNet, too: ``plugins=[dict(cfg=dict(type="dense.ELA"),
    position="after_conv3")]``.

    Where the numbers of a variant do not divide C, the norm has gcd(groups, C) groups, and the convolution
    as many as the largest divisor of C that leaves each 8 channels or more.

    Args:
        in_channels: C.
        variant: "T" and "B" have depthwise convolutions, "S" and "L" groups of 8 channels; kernels are 5, 7,
            5, 7.
        share_directions: one convolution and norm for both directions, as published; the paper's equations
            name one for each.

    Raises:
        ValueError: an unknown variant, or fewer than 8 channels for "S" and "L".
    """

    _abbr_ = "ela"  # what ResNets call it

    def __init__(self, in_channels: int, variant: str = "B", share_directions: bool = True):
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {[*VARIANTS]}, found {variant!r}")
        kernel, mixed, groups = VARIANTS[variant]
        if in_channels < mixed:
            raise ValueError(f"ELA-{variant} wants at least {mixed} channels, found {in_channels}")
        most = in_channels // mixed
        self.share_directions = share_directions
        self.margin = kernel // 2
        for end in ("",) if share_directions else ("_h", "_w"):
            conv = nn.Conv1d(
                in_channels,
                in_channels,
                kernel,
                padding=self.margin,
                groups=max(n for n in range(1, most + 1) if in_channels % n == 0),
                bias=False,
            )
            self.add_module(f"conv{end}", conv)
            self.add_module(f"gn{end}", nn.GroupNorm(gcd(groups, in_channels), in_channels))

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gates of the rows, (B, C, H), and of the columns, (B, C, W), of (B, C, H, W)."""
        exact, pixels = torch.promote_types(x.dtype, torch.float32), x.permute(0, 2, 3, 1)
        rows, columns = (pixels.mean(axis, dtype=exact).to(x.dtype) for axis in (2, 1))
        if not self.share_directions:
            rows, columns = self.gn_h(self.conv_h(rows.mT)), self.gn_w(self.conv_w(columns.mT))
        else:
            # both strips in one, with as many zeros between them as the kernel reaches
            gap = rows.new_zeros(len(x), self.margin, x.shape[1])
            strips = self.conv(torch.cat((rows, gap, columns), 1).mT)
            rows, columns = self.gn(strips[..., : x.shape[2]]), self.gn(strips[..., -x.shape[3] :])
        return rows.sigmoid().to(x.dtype), columns.sigmoid().to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.gates(x)
        if x.is_contiguous(memory_format=torch.channels_last):  # as the map, or products take strides
            rows, columns = (gate.mT.contiguous().mT for gate in (rows, columns))
        y = x * rows[..., None]
        return y * columns[:, :, None] if torch.is_grad_enabled() else y.mul_(columns[:, :, None])
