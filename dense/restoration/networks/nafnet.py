"""NAFNet: a U-shaped restorer whose blocks have no activation function but products of halves.

Chen, Chu, Zhang, Sun, "Simple Baselines for Image Restoration", ECCV 2022, arXiv 2204.04676. Published code:
megvii-research/NAFNet, MIT.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import count_parts, rename_keys

from ...layers import LayerNorm2d
from ...layers.weighted_conv import convert_density, guess_density, weight_convolutions
from ...registry import MODELS, ZOO
from .base import RestorationNetwork


class NAFBlock(nn.Module):
    """Depthwise convolution with gate and channel attention, then a gated MLP: (B, C, H, W) to such.

    Both branches start switched off (``beta`` and ``gamma`` are 0).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = LayerNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm2 = LayerNorm2d(channels)
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(self.conv3.weight.new_zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(self.conv3.weight.new_zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.conv3(y * self.sca(y)) * self.beta
        return x + self.conv5(gate(self.conv4(self.norm2(x)))) * self.gamma


def _nafnet(
    width: int, encoder_blocks: tuple[int, ...], middle_blocks: int, decoder_blocks: tuple[int, ...]
) -> dict[str, Any]:
    return {
        "width": width,
        "encoder_blocks": encoder_blocks,
        "middle_blocks": middle_blocks,
        "decoder_blocks": decoder_blocks,
    }


def gate(x: Tensor) -> Tensor:
    """The product of both halves of the channels: (B, 2 C, H, W) to (B, C, H, W)."""
    a, b = x.chunk(2, 1)
    return a * b


@ZOO.register_network("nafnet", MODELS)
class NAFNet(RestorationNetwork):
    """(B, in_channels, H, W) to the same, of any size.

    Maps are halved in size and doubled in channels after each level of encoder blocks. Sizes are filled up
    with zeros, at the right and at the bottom, to a multiple of 2 ** levels. The channel attention takes the
    mean of the whole map, so what comes out of a tile is not quite what comes out of the whole image.

    Args:
        width: channels at full size; published: 32 and 64.
        encoder_blocks, decoder_blocks: number at each level, the encoder's from full size down, the decoder's
            upwards. Published: (1, 1, 1, 28) and (1, 1, 1, 1) with ``middle_blocks=1`` against blur,
            (2, 2, 4, 8) and (2, 2, 2, 2) with 12 against noise.
        middle_blocks: number at the smallest size.
        in_channels: of the image: 1 grey, 3 colour.
        density: by kernel size, as ``{3: [0.7]}``, makes the 3 x 3 convolutions weighted ones; None leaves
            them. Weights start as those of the plain network.
        trainable_density: learn it.
    """

    folder = "weighted_conv"
    paper = 'Chen, Chu, Zhang, Sun, "Simple Baselines for Image Restoration", ECCV 2022, arXiv 2204.04676'
    code = "megvii-research/NAFNet"
    licence = "MIT"
    archs = {  # by the data set and the width
        "gopro_32": _nafnet(32, (1, 1, 1, 28), 1, (1, 1, 1, 1)),
        "sidd_32": _nafnet(32, (2, 2, 4, 8), 12, (2, 2, 2, 2)),
        "gopro_64": _nafnet(64, (1, 1, 1, 28), 1, (1, 1, 1, 1)),
        "sidd_64": _nafnet(64, (2, 2, 4, 8), 12, (2, 2, 2, 2)),
    }
    num_parameters = {
        "gopro_32": 17_111_907,
        "sidd_32": 29_159_715,
        "gopro_64": 67_888_835,
        "sidd_64": 115_982_915,
    }

    def __init__(
        self,
        width: int = 32,
        encoder_blocks: Sequence[int] = (1, 1, 1, 28),
        middle_blocks: int = 1,
        decoder_blocks: Sequence[int] = (1, 1, 1, 1),
        in_channels: int = 3,
        density: Mapping[int, Sequence[float]] | None = None,
        trainable_density: bool = False,
    ):
        super().__init__()
        if len(encoder_blocks) != len(decoder_blocks):
            raise ValueError(
                "encoder_blocks and decoder_blocks must have a number for each level, found "
                f"{tuple(encoder_blocks)} and {tuple(decoder_blocks)}"
            )
        self.in_channels = in_channels
        self.intro = nn.Conv2d(in_channels, width, 3, padding=1)
        self.ending = nn.Conv2d(width, in_channels, 3, padding=1)
        self.encoders, self.downs = nn.ModuleList(), nn.ModuleList()
        self.decoders, self.ups = nn.ModuleList(), nn.ModuleList()
        channels = width
        for count in encoder_blocks:
            self.encoders.append(_blocks(channels, count))
            self.downs.append(nn.Conv2d(channels, 2 * channels, 2, 2))
            channels *= 2
        self.middle_blks = _blocks(channels, middle_blocks)
        for count in decoder_blocks:
            self.ups.append(
                nn.Sequential(nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.PixelShuffle(2))
            )
            channels //= 2
            self.decoders.append(_blocks(channels, count))
        if density is not None:
            weight_convolutions(self, density, trainable=trainable_density)

    def forward(self, x: Tensor) -> Tensor:
        self.check_images(x)
        height, width = x.shape[2:]
        side = 2 ** len(self.encoders)
        image = F.pad(x, (0, -width % side, 0, -height % side))
        x = self.intro(image)
        skipped = []
        for blocks, down in zip(self.encoders, self.downs, strict=True):
            x = blocks(x)
            skipped.append(x)
            x = down(x)
        x = self.middle_blks(x)
        for blocks, up in zip(self.decoders, self.ups, strict=True):
            x = blocks(up(x) + skipped.pop())
        return (self.ending(x) + image)[..., :height, :width]

    @classmethod
    def create(cls, arch: str | Mapping[str, Any], **options) -> nn.Module:
        return cls(**cls.find_arch(arch), **options)

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        return cls.create(_nafnet(8, (1, 1), 1, (1, 1)), **options)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights; a weighted layer may have its density under the published names."""
        parts = r"(intro|ending|middle_blks|(encoders|decoders|ups|downs)\.\d+)\..*"
        return rename_keys(convert_density(state_dict), [(parts, r"\g<0>")])

    @classmethod
    def guess_options(
        cls, state_dict: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        levels = range(count_parts(state_dict, "downs."))
        width, in_channels = state_dict["intro.weight"].shape[:2]
        arch, own = cls.name_arch(
            _nafnet(
                width,
                tuple(count_parts(state_dict, f"encoders.{i}.") for i in levels),
                count_parts(state_dict, "middle_blks."),
                tuple(count_parts(state_dict, f"decoders.{i}.") for i in levels),
            )
        )
        options = cls.drop_defaults(in_channels=in_channels, density=guess_density(state_dict))
        yield arch, {**own, **options}, dict(state_dict)


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*[NAFBlock(channels) for _ in range(count)])
