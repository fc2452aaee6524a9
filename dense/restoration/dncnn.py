"""DnCNN: a plain stack of convolutions that finds the noise of an image.

Zhang, Zuo, Chen, Meng, Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image
Denoising", IEEE Transactions on Image Processing 2017, arXiv 1608.03981.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..layers.weighted_conv import convert_density, weight_convolutions
from ..registry import MODELS


@MODELS.register_module()
class DnCNN(nn.Module):
    """The image less the noise that is found in it: (B, in_channels, H, W) to the same, of any size.

    A convolution and ReLU, ``depth`` - 2 convolutions with batch norm and ReLU, a convolution; all 3 x 3.
    Weights start normal (He et al., by the channels that go out), so those of the weighted network, drawn
    with the same seed, are those of its plain twin.

    Args:
        depth: convolutions, at least 2; published: 17, or 20 for noise of unknown strength and colour.
        channels: of all inner maps.
        in_channels: of the image: 1 grey, 3 colour.
        density: by kernel size, as ``{3: [0.7]}``, makes the convolutions weighted ones; None leaves them.
        trainable_density: learn it.
    """

    scale = 1
    multiple = 1

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
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"images must be (B, {self.in_channels}, H, W), found {tuple(x.shape)}")
        return x - self.net(x)

    @staticmethod
    def convert_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of which a weighted layer has its density under the published names."""
        return convert_density(state_dict)
