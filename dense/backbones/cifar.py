"""VGG with batch norm and ResNet for pictures of 32 x 32 pixels, as usual on CIFAR.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, arXiv
1409.1556; He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385.
For small pictures VGG has batch norms and one Linear after the mean of the map, and ResNet's stem is a 3 x 3
convolution of stride 1. Hosts of weighted convolutions: see ``configs/weighted_conv``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys

from ..layers import ConvNorm, DropPath, PooledLinear, weight_convolutions
from ..layers.weighted_conv import convert_density
from .base import Backbone, register_backbone


class ConvNormReLU(ConvNorm):
    """(B, in_channels, H, W) to (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = False):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, "relu")


def init_convolutions(module: nn.Module) -> None:
    """Normal weights (He et al., by the channels that go out), which weighted ones have, too; biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class PoolHead(PooledLinear):
    """The last of VGG's poolings, mean over positions, Linear: (B, C, H, W) to (B, num_classes)."""

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < 2:
            raise ValueError(f"maps must be at least 2 x 2 to be pooled, found {tuple(x.shape[2:])}")
        return super().forward(F.max_pool2d(x, 2))


@register_backbone("vgg_cifar")
class VGGCifar(Backbone):
    """VGG's trunk with batch norms: stages of 3 x 3 convolutions, between them max-pooling by 2.

    Outputs are before the pooling: strides 1, 2, 4, ...; odd maps are rounded down.

    Args:
        arch: one of :attr:`archs`, or a mapping with its keys and any number of stages.
        density: by kernel size, as ``{3: [0.7]}``, makes the convolutions weighted ones; None leaves them.
        trainable_density: learn it.
        drop_path_rate: 0, for there are no branches; the argument is that of other backbones.
        **kwargs: of :class:`Backbone`.
    """

    archs = {
        "11": {"embed_dims": (64, 128, 256, 512, 512), "depths": (1, 1, 2, 2, 2)},
        "13": {"embed_dims": (64, 128, 256, 512, 512), "depths": (2, 2, 2, 2, 2)},
        "16": {"embed_dims": (64, 128, 256, 512, 512), "depths": (2, 2, 3, 3, 3)},
        "19": {"embed_dims": (64, 128, 256, 512, 512), "depths": (2, 2, 4, 4, 4)},
    }
    num_stages = 5

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "16",
        *,
        density: Mapping[int, Sequence[float]] | None = None,
        trainable_density: bool = False,
        drop_path_rate: float = 0.0,
        **kwargs,
    ):
        spec = self.find_arch(arch)
        if drop_path_rate:
            raise ValueError(f"drop_path_rate must be 0, for VGG has no branches, found {drop_path_rate}")
        dims, depths = spec["embed_dims"], spec["depths"]
        self.num_stages = len(depths)
        super().__init__(**kwargs)
        channels = self.in_channels
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            self.downsamples.append(nn.MaxPool2d(2) if i else nn.Identity())
            widths = (channels, *[dim] * depth)
            self.stages.append(nn.Sequential(*[ConvNormReLU(a, dim, bias=True) for a in widths[:-1]]))
            channels = dim
        init_convolutions(self)
        if density is not None:
            weight_convolutions(self, density, trainable=trainable_density)
        self.set_outputs(dims, [2**i for i in range(len(dims))])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        least = 2 ** (len(self.stages) - 1)
        if x.ndim == 4 and min(x.shape[2:]) < least:
            raise ValueError(f"images must be at least {least} x {least}, found {tuple(x.shape)}")
        return super().forward(x)

    def make_head(self, num_classes: int) -> nn.Module:
        return PoolHead(self.out_channels[-1], num_classes)

    @staticmethod
    def rename_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names as in ``features`` and ``classifier``; a gap in the numbers of layers is a pooling."""
        state_dict = convert_density(state_dict)
        numbers = sorted(
            int(key.split(".")[1])
            for key, value in state_dict.items()
            if key.startswith("features.") and key.endswith(".weight") and value.ndim == 4
        )
        rules, stage, block = [], 0, 0
        for number, before in zip(numbers, [None, *numbers], strict=False):
            if before is not None:
                stage, block = (stage, block + 1) if number - before == 3 else (stage + 1, 0)
            place = rf"backbone.stages.{stage}.{block}."
            rules += [
                (rf"features\.{number}\.(.*)", rf"{place}conv.\1"),
                (rf"features\.{number + 1}\.(.*)", rf"{place}norm.\1"),
            ]
        return rename_keys(state_dict, [*rules, (r"classifier\.(.*)", r"head.fc.\1")])


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

    archs = {
        "18": {"embed_dims": (64, 128, 256, 512), "depths": (2, 2, 2, 2)},
        "34": {"embed_dims": (64, 128, 256, 512), "depths": (3, 4, 6, 3)},
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "18",
        *,
        density: Mapping[int, Sequence[float]] | None = None,
        trainable_density: bool = False,
        drop_path_rate: float = 0.0,
        **kwargs,
    ):
        spec = self.find_arch(arch)
        dims, depths = spec["embed_dims"], spec["depths"]
        self.num_stages = len(depths)
        super().__init__(**kwargs)
        last = max(sum(depths) - 1, 1)
        rates = iter([drop_path_rate * i / last for i in range(sum(depths))])
        channels = dims[0]
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            # where the size changes, the first block of the stage does it
            self.downsamples.append(nn.Identity() if i else ConvNormReLU(self.in_channels, channels))
            blocks = []
            for j in range(depth):
                blocks.append(BasicBlock(channels, dim, 2 if i and not j else 1, next(rates)))
                channels = dim
            self.stages.append(nn.Sequential(*blocks))
        init_convolutions(self)
        if density is not None:
            weight_convolutions(self, density, trainable=trainable_density)
        self.set_outputs(dims, [2**i for i in range(len(dims))])

    def make_head(self, num_classes: int) -> nn.Module:
        return PooledLinear(self.out_channels[-1], num_classes)

    @staticmethod
    def rename_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
        for key, value in convert_density(state_dict).items():
            layer, dot, rest = key.partition(".")
            if layer.startswith("layer"):  # counted from 1
                layer = f"stages.{int(layer.removeprefix('layer')) - 1}"
            numbered[f"{layer}{dot}{rest}"] = value
        return rename_keys(numbered, rules)
