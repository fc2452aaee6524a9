"""DnCNN: a plain stack of convolutions that finds the noise of an image.

Zhang, Zuo, Chen, Meng, Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image
Denoising", IEEE Transactions on Image Processing 2017, arXiv 1608.03981.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pointsuite.engine.checkpoint import rename_keys

from ...layers.weighted_conv import convert_density, guess_density, weight_convolutions
from ...registry import MODELS, ZOO
from .base import RestorationNetwork


@ZOO.register_network("dncnn", MODELS)
class DnCNN(RestorationNetwork):
    """The image less the noise that is found in it: (B, in_channels, H, W) to the same, of any size.

    A convolution and ReLU, ``depth`` - 2 convolutions with batch norm and ReLU, a convolution; all 3 x 3.
    Weights start normal (He et al., fan_out), so those of the weighted network, drawn
    with the same seed, are those of its plain twin.

    Args:
        depth: convolutions, at least 2; published: 17, or 20 for noise of unknown strength and colour.
        channels: of all inner maps.
        in_channels: of the image: 1 grey, 3 colour.
        density: by kernel size, as ``{3: [0.7]}``, makes the convolutions weighted ones; None leaves them.
        trainable_density: learn it.
    """

    folder = "weighted_conv"
    paper = (
        'Zhang, Zuo, Chen, Meng, Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image '
        'Denoising", IEEE Transactions on Image Processing 2017, arXiv 1608.03981'
    )
    archs = {"17": {"depth": 17, "channels": 64}, "20": {"depth": 20, "channels": 64}}
    num_parameters = {"17": 558_403, "20": 669_379}

    def __init__(
        self,
        depth: int = 17,
        channels: int = 64,
        in_channels: int = 3,
        density: Mapping[int, Sequence[float]] | None = None,
        trainable_density: bool = False,
    ):
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth must be at least 2, found {depth}")
        self.in_channels = in_channels
        layers = [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers += [
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
        self.net = nn.Sequential(*layers, nn.Conv2d(channels, in_channels, 3, padding=1))
        for layer in self.net:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if density is not None:
            weight_convolutions(self, density, trainable=trainable_density)

    def forward(self, x: Tensor) -> Tensor:
        self.check_images(x)
        return x - self.net(x)

    @classmethod
    def create(cls, arch: str | Mapping[str, Any], **options) -> nn.Module:
        return cls(**cls.find_arch(arch), **options)

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        return cls.create({"depth": 3, "channels": 8}, **options)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of which a weighted layer has its density under the published names."""
        return rename_keys(convert_density(state_dict), [(r"net\.\d+\..*", r"\g<0>")])

    @classmethod
    def guess_options(
        cls, state_dict: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        convolutions = [value for value in state_dict.values() if value.ndim == 4]
        channels, in_channels = convolutions[0].shape[:2]
        arch, own = cls.name_arch({"depth": len(convolutions), "channels": channels})
        options = cls.drop_defaults(in_channels=in_channels, density=guess_density(state_dict))
        yield arch, {**own, **options}, dict(state_dict)
