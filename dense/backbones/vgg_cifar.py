"""VGG with batch norm for pictures of 32 x 32 pixels, as usual on CIFAR.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, arXiv
1409.1556. For small pictures it has batch norms, and one Linear after the mean of the map. A host of weighted
convolutions: see ``configs/weighted_conv``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys

from ..base import Backbone, register_backbone
from ..layers import ConvNormReLU, PooledLinear, init_he, weight_convolutions
from ..layers.weighted_conv import convert_density, guess_density


class PoolHead(PooledLinear):
    """The last of VGG's poolings, mean over positions, Linear: (B, C, H, W) to (B, num_classes)."""

    def pre_logits(self, features: Tensor) -> Tensor:
        if min(features.shape[2:]) < 2:
            raise ValueError(f"maps must be at least 2 x 2 to be pooled, found {tuple(features.shape[2:])}")
        return super().pre_logits(F.max_pool2d(features, 2))


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

    folder = "weighted_conv"
    paper = (
        'Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", '
        "ICLR 2015, arXiv 1409.1556"
    )
    archs = {
        "11": {"embed_dims": (64, 128, 256, 512, 512), "depths": (1, 1, 2, 2, 2)},
        "13": {"embed_dims": (64, 128, 256, 512, 512), "depths": (2, 2, 2, 2, 2)},
        "16": {"embed_dims": (64, 128, 256, 512, 512), "depths": (2, 2, 3, 3, 3)},
        "19": {"embed_dims": (64, 128, 256, 512, 512), "depths": (2, 2, 4, 4, 4)},
    }
    example_arch = {"embed_dims": (16, 32, 64, 128, 128)}
    num_parameters = {"11": 9_738_984, "13": 9_923_880, "16": 15_236_136, "19": 20_548_392}
    example_sizes = ((32, 32), (48, 32))
    # of Cammarasana, Patane, arXiv 2505.24558
    published = {"16": {"CIFAR-100 top-1, %": 56.89, "CIFAR-100 top-1 weighted, %": 66.94}}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "16",
        *,
        density: Mapping[int, Sequence[float]] | None = None,
        trainable_density: bool = False,
        drop_path_rate: float = 0.0,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        if drop_path_rate:
            raise ValueError(f"drop_path_rate must be 0, for VGG has no branches, found {drop_path_rate}")
        dims, depths = self.spec["embed_dims"], self.spec["depths"]
        channels = self.in_channels
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            self.downsamples.append(nn.MaxPool2d(2) if i else nn.Identity())
            widths = (channels, *[dim] * depth)
            self.stages.append(nn.Sequential(*[ConvNormReLU(a, dim, bias=True) for a in widths[:-1]]))
            channels = dim
        init_he(self)
        if density is not None:
            weight_convolutions(self, density, trainable=trainable_density)
        self.set_outputs(dims, [2**i for i in range(len(dims))])
        self.min_size = self.strides[-1]

    def make_head(self, num_classes: int) -> PoolHead:
        return PoolHead(self.num_features, num_classes, init=None)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return cls.drop_defaults(density=guess_density(state_dict))

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names as in ``features`` and ``classifier``; a gap in the numbers of layers is a pooling."""
        state_dict = convert_density(cls.find_trunk(state_dict))
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
