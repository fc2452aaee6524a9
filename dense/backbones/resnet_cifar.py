"""ResNet of basic blocks for pictures of 32 x 32 pixels, as usual on CIFAR.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385. For small
pictures the stem is a 3 x 3 convolution of stride 1. A host of weighted convolutions: see
``configs/weighted_conv``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from pointsuite.engine.checkpoint import rename_keys

from ..base import Backbone, register_backbone
from ..layers import (
    ConvNorm,
    ConvNormReLU,
    DropPath,
    PluggedBlock,
    PooledLinear,
    drop_path_rates,
    init_he,
    plugins_of_stage,
    weight_convolutions,
)
from ..layers.weighted_conv import convert_density, guess_density


class BasicBlock(PluggedBlock):
    """relu(shortcut(x) + two convolutions of x): (B, in, H, W) to (B, out, H / stride, W / stride).

    Args:
        in_channels, out_channels, stride: as above.
        drop_path: rate of the convolutions.
        plugins: see :meth:`~dense.layers.PluggedBlock.plug`; positions "after_conv1" and "after_conv2".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        drop_path: float = 0.0,
        plugins: Sequence[Mapping[str, Any]] = (),
    ):
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, 3, stride, 1)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, 1, 1)
        self.drop_path = DropPath(drop_path)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvNorm(in_channels, out_channels, 1, stride)
        self.plug(plugins, (out_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.run_plugins(self.conv1(x, "relu"), 1)
        y = self.drop_path(self.run_plugins(self.conv2(y), 2))
        return (y + (x if self.shortcut is None else self.shortcut(x))).relu_()


@register_backbone("resnet_cifar")
class ResNetCifar(Backbone):
    """ResNet of basic blocks with a stem that keeps the size: strides 1, 2, 4, 8; odd maps are rounded up.

    Args:
        arch: one of :attr:`archs`, or a mapping with its keys and any number of stages.
        density: by kernel size, as ``{3: [0.7]}``, makes the convolutions weighted ones; None leaves them.
        trainable_density: learn it.
        plugins: layers in the blocks, as MMDetection's ResNet takes them: ``[dict(cfg=dict(type="dense.ELA"),
            position="after_conv2", stages=(True, True, True, True))]``, see
            :meth:`~dense.layers.PluggedBlock.plug`.
        drop_path_rate: of the last block; those before it rise to it linearly from 0. Usual: 0.
        **kwargs: of :class:`Backbone`.
    """

    folder = "weighted_conv"
    paper = 'He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385'
    archs = {
        "18": {"embed_dims": (64, 128, 256, 512), "depths": (2, 2, 2, 2)},
        "34": {"embed_dims": (64, 128, 256, 512), "depths": (3, 4, 6, 3)},
    }
    example_arch = {"embed_dims": (16, 32, 64, 128)}
    num_parameters = {"18": 11_681_832, "34": 21_789_992}
    example_sizes = ((32, 32), (48, 32))
    stem_stride: ClassVar[int] = 1
    stem_place: ClassVar[str] = "backbone.downsamples.0."

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "18",
        *,
        density: Mapping[int, Sequence[float]] | None = None,
        trainable_density: bool = False,
        plugins: Sequence[Mapping[str, Any]] = (),
        drop_path_rate: float = 0.0,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        dims, depths = self.spec["embed_dims"], self.spec["depths"]
        channels = dims[0] // self.spec.get("expansion", 1)
        for i, (dim, rates) in enumerate(zip(dims, drop_path_rates(drop_path_rate, depths), strict=True)):
            # where the size changes, the first block of the stage does it
            self.downsamples.append(nn.Identity() if i else self.make_stem(channels))
            own, blocks = plugins_of_stage(plugins, i), []
            for j, rate in enumerate(rates):
                blocks.append(self.make_block(channels, dim, 2 if i and not j else 1, rate, own))
                channels = dim
            self.stages.append(nn.Sequential(*blocks))
        init_he(self)
        if density is not None:
            weight_convolutions(self, density, trainable=trainable_density)
        self.set_outputs(dims, [self.stem_stride * 2**i for i in range(len(dims))])

    def make_stem(self, channels: int) -> nn.Module:
        """Images to the first stage's map: (B, in_channels, H, W) to (B, channels, H', W')."""
        return ConvNormReLU(self.in_channels, channels)

    def make_block(self, *args: Any) -> nn.Module:
        """A block of the arguments of :class:`BasicBlock`."""
        return BasicBlock(*args)

    def make_head(self, num_classes: int) -> PooledLinear:
        return PooledLinear(self.num_features, num_classes, init=None)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return ResNetCifar.drop_defaults(density=guess_density(state_dict))

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        place = r"backbone.stages.\1.\2."
        rules = [
            (r"conv1\.(.*)", rf"{cls.stem_place}conv.\1"),
            (r"bn1\.(.*)", rf"{cls.stem_place}norm.\1"),
            (r"stages\.(\d+)\.(\d+)\.conv(\d)\.(.*)", rf"{place}conv\3.conv.\4"),
            (r"stages\.(\d+)\.(\d+)\.bn(\d)\.(.*)", rf"{place}conv\3.norm.\4"),
            (r"stages\.(\d+)\.(\d+)\.(ela|se)\.(.*)", rf"{place}\3.\4"),
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
