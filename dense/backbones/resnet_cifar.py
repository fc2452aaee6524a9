"""ResNet of basic blocks for pictures of 32 x 32 pixels, as usual on CIFAR.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385. For small
pictures the stem is a 3 x 3 convolution of stride 1. A host of weighted convolutions: see
``configs/weighted_conv``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pointsuite.engine.checkpoint import rename_keys

from ..base import Backbone, register_backbone
from ..layers import (
    ConvNorm,
    ConvNormReLU,
    DropPath,
    PooledLinear,
    drop_path_rates,
    init_he,
    weight_convolutions,
)
from ..layers.weighted_conv import convert_density, guess_density


class BasicBlock(nn.Module):
    """relu(shortcut(x) + two convolutions of x): (B, in, H, W) to (B, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, drop_path: float = 0.0):
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, 3, stride, 1)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, 1, 1)
        self.drop_path = DropPath(drop_path)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvNorm(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop_path(self.conv2(self.conv1(x, "relu")))
        return (y + (x if self.shortcut is None else self.shortcut(x))).relu_()


@register_backbone("resnet_cifar")
class ResNetCifar(Backbone):
    """ResNet of basic blocks with a stem that keeps the size: strides 1, 2, 4, 8; odd maps are rounded up.

    Args:
        arch: one of :attr:`archs`, or a mapping with its keys and any number of stages.
        density: by kernel size, as ``{3: [0.7]}``, makes the convolutions weighted ones; None leaves them.
        trainable_density: learn it.
        drop_path_rate: of the last block; those before it rise to it linearly from 0. Usual: 0.
        **kwargs: of :class:`Backbone`.
    """

    folder = "weighted_conv"
    paper = 'He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385'
    archs = {
        "18": {"embed_dims": (64, 128, 256, 512), "depths": (2, 2, 2, 2)},
        "34": {"embed_dims": (64, 128, 256, 512), "depths": (3, 4, 6, 3)},
    }
    num_parameters = {"18": 11_681_832, "34": 21_789_992}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "18",
        *,
        density: Mapping[int, Sequence[float]] | None = None,
        trainable_density: bool = False,
        drop_path_rate: float = 0.0,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        dims, depths = self.spec["embed_dims"], self.spec["depths"]
        channels = dims[0]
        for i, (dim, rates) in enumerate(zip(dims, drop_path_rates(drop_path_rate, depths), strict=True)):
            # where the size changes, the first block of the stage does it
            self.downsamples.append(nn.Identity() if i else ConvNormReLU(self.in_channels, channels))
            blocks = []
            for j, rate in enumerate(rates):
                blocks.append(BasicBlock(channels, dim, 2 if i and not j else 1, rate))
                channels = dim
            self.stages.append(nn.Sequential(*blocks))
        init_he(self)
        if density is not None:
            weight_convolutions(self, density, trainable=trainable_density)
        self.set_outputs(dims, [2**i for i in range(len(dims))])

    def make_head(self, num_classes: int) -> PooledLinear:
        return PooledLinear(self.num_features, num_classes, init=None)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return cls.drop_defaults(density=guess_density(state_dict))

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        place = r"backbone.stages.\1.\2."
        rules = [
            (r"conv1\.(.*)", r"backbone.downsamples.0.conv.\1"),
            (r"bn1\.(.*)", r"backbone.downsamples.0.norm.\1"),
            (r"stages\.(\d+)\.(\d+)\.conv(\d)\.(.*)", rf"{place}conv\3.conv.\4"),
            (r"stages\.(\d+)\.(\d+)\.bn(\d)\.(.*)", rf"{place}conv\3.norm.\4"),
            (r"stages\.(\d+)\.(\d+)\.downsample\.0\.(.*)", rf"{place}shortcut.conv.\3"),
            (r"stages\.(\d+)\.(\d+)\.downsample\.1\.(.*)", rf"{place}shortcut.norm.\3"),
            (r"fc\.(.*)", r"head.fc.\1"),
        ]
        numbered = {}
        for key, value in convert_density(cls.find_trunk(state_dict)).items():
            layer, dot, rest = key.partition(".")
            if layer.startswith("layer"):  # counted from 1
                layer = f"stages.{int(layer.removeprefix('layer')) - 1}"
            numbered[f"{layer}{dot}{rest}"] = value
        return rename_keys(numbered, rules)
