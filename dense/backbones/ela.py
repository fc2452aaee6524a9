"""ELA: ResNets with efficient local attention at the end of every block.

Xu, Wan, "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", 2024, arXiv 2403.01123. No
code was published; where in a block the layer stands is our choice: before the residual sum, as squeeze and
excitation does.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..base import register_backbone
from ..layers.ela import VARIANTS
from .resnet import ResNet


@register_backbone("ela")
class ELAResNet(ResNet):
    """ResNet with :class:`~dense.layers.ELA` after the last norm of every block: strides 4, 8, 16, 32.

    Args:
        arch: one of :attr:`archs`, or a mapping with the keys of :class:`~dense.backbones.ResNet` and
            ``variant``, "T", "B", "S" or "L".
        share_directions: see :class:`~dense.layers.ELA`.
        plugins: further ones.
        **kwargs: of :class:`~dense.backbones.ResNet`.
    """

    folder = ""
    title = "ELA"
    paper = (
        'Xu, Wan, "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", 2024, '
        "arXiv 2403.01123"
    )
    code = ""
    licence = ""
    archs = {
        f"resnet{depth}_{variant.lower()}": {**ResNet.archs[depth], "variant": variant}
        for depth in ("18", "50", "101")
        for variant in VARIANTS
    }
    num_parameters = {
        "resnet18_t": 11_702_952,
        "resnet18_b": 11_706_792,
        "resnet18_s": 11_770_152,
        "resnet18_l": 11_800_872,
        "resnet50_t": 25_662_760,
        "resnet50_b": 25_692_968,
        "resnet50_s": 26_191_400,
        "resnet50_l": 26_433_064,
        "resnet101_t": 44_776_744,
        "resnet101_b": 44_841_768,
        "resnet101_s": 45_914_664,
        "resnet101_l": 46_434_856,
    }
    published = {}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "resnet18_b",
        *,
        share_directions: bool = True,
        plugins: Sequence[Mapping[str, Any]] = (),
        **kwargs,
    ):
        spec = self.find_arch(arch)
        ela = {"type": "dense.ELA", "variant": spec["variant"], "share_directions": share_directions}
        last = "after_conv2" if spec["expansion"] == 1 else "after_conv3"
        super().__init__(arch, plugins=[{"cfg": ela, "position": last}, *plugins], **kwargs)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        shared = not any(".ela.conv_h." in key for key in state_dict)
        return {**super().read_options(state_dict), **cls.drop_defaults(share_directions=shared)}

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        spec = super().adapt_arch(spec, state_dict)
        pattern = r"backbone\.stages\.0\.0\.ela\.conv(_h)?\.weight"
        for key, value in state_dict.items():
            if re.fullmatch(pattern, key):
                shown = value.shape[2], value.shape[1]
                names = (name for name, (kernel, mixed, _) in VARIANTS.items() if (kernel, mixed) == shown)
                spec["variant"] = next(names, spec["variant"])
        return spec
