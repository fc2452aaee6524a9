"""ResNet, with layers that a config adds to its blocks.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385. Weights by
the names, and with the strides, of pytorch/vision (BSD-3-Clause): a bottleneck's 3 x 3 convolution has its
stride.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.network import results

from ..base import register_backbone
from ..layers import ConvNorm, DropPath, PluggedBlock
from .resnet_cifar import ResNetCifar


class Stem(nn.Module):
    """Convolution 7x7 of stride 2, norm, ReLU, maximum of 3x3 of stride 2: (B, in, H, W) to (B, out, H / 4,
    W / 4), rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.proj = ConvNorm(in_channels, out_channels, 7, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.proj(x, "relu"), 3, 2, 1)


class Bottleneck(PluggedBlock):
    """relu(shortcut(x) + three convolutions of x, the middle one of a quarter of the channels).

    (B, in, H, W) to (B, out, H / stride, W / stride). Arguments as of
    :class:`~dense.backbones.resnet_cifar.BasicBlock`; plugins may also be "after_conv3".
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        drop_path: float = 0.0,
        plugins: Sequence[Mapping[str, Any]] = (),
    ):
        super().__init__()
        width = out_channels // self.expansion
        self.conv1 = ConvNorm(in_channels, width, 1)
        self.conv2 = ConvNorm(width, width, 3, stride, 1)
        self.conv3 = ConvNorm(width, out_channels, 1)
        self.drop_path = DropPath(drop_path)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvNorm(in_channels, out_channels, 1, stride)
        self.plug(plugins, (width, width, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.run_plugins(self.conv1(x, "relu"), 1)
        y = self.run_plugins(self.conv2(y, "relu"), 2)
        y = self.drop_path(self.run_plugins(self.conv3(y), 3))
        return (y + (x if self.shortcut is None else self.shortcut(x))).relu_()


def _resnet(depths: tuple[int, ...], expansion: int) -> dict[str, Any]:
    dims = tuple(64 * expansion << i for i in range(4))
    return {"embed_dims": dims, "depths": depths, "expansion": expansion}


@register_backbone("resnet")
class ResNet(ResNetCifar):
    """ResNet of basic blocks or bottlenecks: strides 4, 8, 16, 32; odd maps are rounded up.

    Args:
        arch: one of :attr:`archs`, or a mapping with its keys; ``expansion`` 1 has basic blocks, 4
            bottlenecks of ``embed_dims / 4``.
        **kwargs: of :class:`~dense.backbones.ResNetCifar`, as ``plugins``.
    """

    folder = "ela"
    code = "pytorch/vision"
    licence = "BSD-3-Clause"
    archs = {
        "18": _resnet((2, 2, 2, 2), 1),
        "34": _resnet((3, 4, 6, 3), 1),
        "50": _resnet((3, 4, 6, 3), 4),
        "101": _resnet((3, 4, 23, 3), 4),
        "152": _resnet((3, 8, 36, 3), 4),
    }
    num_parameters = {
        "18": 11_689_512,
        "34": 21_797_672,
        "50": 25_557_032,
        "101": 44_549_160,
        "152": 60_192_808,
    }
    published = results(
        ("ImageNet-1K top-1, %",),
        {"18": (69.76,), "34": (73.31,), "50": (76.13,), "101": (77.37,), "152": (78.31,)},
    )
    example_sizes = ((64, 64), (96, 64))
    stem_stride = 4
    stem_place = "backbone.downsamples.0.proj."

    def make_stem(self, channels: int) -> nn.Module:
        return Stem(self.in_channels, channels)

    def make_block(self, *args: Any) -> nn.Module:
        if self.spec["expansion"] == 1:
            return super().make_block(*args)
        return Bottleneck(*args)
