"""Necks between backbone and head: the feature pyramid of HorNet's detectors."""

from mmdet.models.necks import FPN
from torch import Tensor

from ..backbones.hornet import GnConv
from ..registry import MODELS


@MODELS.register_module()
class GnConvFPN(FPN):
    """MMDetection's FPN with a recursive gated convolution of order 2 for each 3x3 convolution of an output.

    Extra levels, of ``add_extra_convs``, stay convolutions of stride 2.

    Args:
        *args: of MMDetection's ``FPN``, as ``in_channels, out_channels, num_outs``; ``out_channels`` even.
        filter_size: of the global-local filter, (32, 17) as published; None for a depthwise 7x7 convolution.
        project_out: end each gated convolution with a projection.
        **kwargs: of MMDetection's ``FPN``.
    """

    def __init__(self, *args, filter_size: tuple[int, int] | None = None, project_out: bool = True, **kwargs):
        xavier = {"type": "Xavier", "layer": ["Conv2d", "Linear"], "distribution": "uniform"}
        super().__init__(*args, **{"init_cfg": xavier, **kwargs})
        for i in range(len(self.lateral_convs)):
            self.fpn_convs[i] = MapGnConv(
                self.out_channels, 2, filter_size=filter_size, project_out=project_out
            )


class MapGnConv(GnConv):
    """:class:`GnConv` of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
