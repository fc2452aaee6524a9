"""AFFNet: a mask that the spectrum of a map makes of itself mixes its positions.

Huang, Zhang, Lan, Zha, Lu, Guo, "Adaptive Frequency Filters As Efficient Global Token Mixers", ICCV 2023,
arXiv 2307.14008. Published code: microsoft/TokenMixers, MIT.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import ConvNorm, DropPath, FinalConvHead, MergedConv, drop_path_rates, init_he
from ..ops import conv2d, half_spectrum, invert_half_spectrum
from ..ops.linear import ACTIVATIONS


class AdaptiveFrequencyFilter(nn.Module):
    r"""x and its spectrum times a mask made of the spectrum: (B, C, H, W) to the same.

    .. math:: y = x + \mathcal{F}^{-1}(M \odot X), \quad X = \mathcal{F} x, \quad
        M = S(W_2 \sigma(W_1 X + b_1) + b_2)

    The complex linear layers join the channels of a block, and all frequencies share them. Activation and
    soft shrinkage S act on real and imaginary parts by themselves. So a shift of x, which turns the phases of
    X, changes the mask. All runs in float32 or wider; see :func:`dense.ops.invert_half_spectrum`.

    Args:
        channels: C.
        num_blocks: of channels, divides C.
        threshold: of the shrinkage: v becomes sign(v) max(abs(v) - threshold, 0).
        act: the activation, see :func:`dense.ops.linear`.
    """

    def __init__(self, channels: int, num_blocks: int = 8, threshold: float = 0.01, act: str = "silu"):
        super().__init__()
        if num_blocks < 1 or channels % num_blocks:
            raise ValueError(f"num_blocks must divide the {channels} channels, found {num_blocks}")
        width = channels // num_blocks
        self.threshold, self.act = threshold, act
        # real and imaginary parts; of a weight (2, block, in, out)
        self.w1 = nn.Parameter(0.02 * torch.randn(2, num_blocks, width, width))
        self.b1 = nn.Parameter(0.02 * torch.randn(2, num_blocks, width))
        self.w2 = nn.Parameter(0.02 * torch.randn(2, num_blocks, width, width))
        self.b2 = nn.Parameter(0.02 * torch.randn(2, num_blocks, width))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            y = x.permute(0, 2, 3, 1).to(torch.promote_types(x.dtype, torch.float32))
            spectrum = half_spectrum(y)
            y = y + invert_half_spectrum(spectrum * self.mask(spectrum), x.shape[3])
        return y.to(x.dtype).permute(0, 3, 1, 2)

    def mask(self, spectrum: Tensor) -> Tensor:
        """M of X: complex (B, H, K, C) to the same."""
        parts = torch.view_as_real(spectrum).flatten(-2).permute(0, 3, 1, 2)  # (B, 2 C, H, K): pairs
        hidden = complex_blocks(parts, self.w1, self.b1, self.act)
        mask = F.softshrink(complex_blocks(hidden, self.w2, self.b2), self.threshold)
        return torch.view_as_complex(mask.permute(0, 2, 3, 1).unflatten(-1, (-1, 2)).contiguous())


def complex_blocks(x: Tensor, weight: Tensor, bias: Tensor, activation: str | None = None) -> Tensor:
    """A complex linear layer of blocks of channels, as a real convolution 1x1 of so many groups.

    Args:
        x: (B, 2 C, H, W), of each complex channel the real part, then the imaginary one.
        weight: (2, blocks, in, out), real and imaginary parts.
        bias: (2, blocks, out).
        activation: of each part, see :func:`dense.ops.linear`.

    Returns:
        (B, 2 C, H, W).
    """
    real, imaginary = weight.to(x.dtype).mT  # (blocks, out, in)
    of_real = torch.stack((real, imaginary), 2)  # to both parts: (blocks, out, 2, in)
    of_imaginary = torch.stack((-imaginary, real), 2)
    kernel = torch.stack((of_real, of_imaginary), -1).flatten(3).flatten(0, 2)  # (2 C, 2 in)
    bias = bias.to(x.dtype).flatten(1).T.flatten()
    return conv2d(x, kernel[:, :, None, None], bias, groups=weight.shape[1], activation=activation)


class StdLayerNorm2d(nn.Module):
    """Layer norm of the channels of each position, (x - mean) / (std + 1e-5): (B, C, H, W) to the same.

    The usual one adds its epsilon to the variance.
    """

    eps = 1e-5

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        std, mean = torch.std_mean(x, -1, correction=0, keepdim=True)
        return torch.addcmul(self.bias, (x - mean) / (std + self.eps), self.weight).permute(0, 3, 1, 2)


NORMS = {
    "layer_norm_2d": lambda channels: nn.GroupNorm(1, channels),  # of an image
    "layer_norm": StdLayerNorm2d,
    "batch_norm": nn.BatchNorm2d,
}


class Stem(ConvNorm):
    """Convolution of stride 2, norm, activation: (B, in, H, W) to (B, out, H / 2, W / 2), rounded up."""

    def __init__(self, in_channels: int, out_channels: int, act: str):
        super().__init__(in_channels, out_channels, 3, 2, 1)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, self.act)

    def to_conv(self) -> MergedConv:
        conv = super().to_conv()
        conv.activation = self.act
        return conv


class InvertedResidual(nn.Module):
    """Wider, depthwise 3x3, narrower; added where that fits: (B, a, H, W) to (B, b, H / stride, W / stride).

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.

    Args:
        in_channels, out_channels: a and b.
        expand_ratio: hidden channels in units of a, rounded to a multiple of 8; 1 leaves out the first layer.
        stride, dilation: of the depthwise convolution.
        act: see :class:`AdaptiveFrequencyFilter`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expand_ratio: float,
        stride: int = 1,
        dilation: int = 1,
        act: str = "silu",
    ):
        super().__init__()
        hidden = _round_to_eights(round(in_channels * expand_ratio))
        self.act, self.adds = act, stride == 1 and in_channels == out_channels
        self.expand = ConvNorm(in_channels, hidden, 1) if expand_ratio != 1 else None
        self.depthwise = ConvNorm(hidden, hidden, 3, stride, dilation, hidden, dilation=dilation)
        self.project = ConvNorm(hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x, self.act)
        y = self.project(self.depthwise(y, self.act))
        return x + y if self.adds else y


class Block(nn.Module):
    """Channels are mixed first, then positions, the result is added to x: (B, C, H, W) to the same.

    Both mixers add their normed input to what they make of it.

    Args:
        embed_dims: C.
        mlp_ratio: hidden channels of the first mixer in units of C.
        num_blocks, threshold, act: see :class:`AdaptiveFrequencyFilter`.
        norm: of :data:`NORMS`.
        drop_path_rate: of all of it.
    """

    def __init__(
        self,
        embed_dims: int,
        mlp_ratio: float,
        num_blocks: int = 8,
        threshold: float = 0.01,
        act: str = "silu",
        norm: str = "layer_norm_2d",
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        self.norm1 = NORMS[norm](embed_dims)
        self.mlp = InvertedResidual(embed_dims, embed_dims, mlp_ratio, act=act)
        self.norm2 = NORMS[norm](embed_dims)
        self.filter = AdaptiveFrequencyFilter(embed_dims, num_blocks, threshold, act)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.filter(self.norm2(self.mlp(self.norm1(x)))))


class GlobalUnit(nn.Module):
    """Blocks, norm, projection; joined with what they began with: (B, C, H, W) to the same.

    Args:
        embed_dims: C.
        rates: of drop path, one for each block.
        fuse: join with the input by a further convolution.
        act, norm: see :class:`Block`.
        **kwargs: of :class:`Block`.
    """

    def __init__(
        self, embed_dims: int, rates: list[float], fuse: bool = True, *, act: str, norm: str, **kwargs
    ):
        super().__init__()
        self.act = act
        self.blocks = nn.Sequential(
            *[Block(embed_dims, act=act, norm=norm, drop_path_rate=rate, **kwargs) for rate in rates]
        )
        self.norm = NORMS[norm](embed_dims)
        self.proj = ConvNorm(embed_dims, embed_dims, 1)
        self.fuse = ConvNorm(2 * embed_dims, embed_dims, 1) if fuse else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.proj(self.norm(self.blocks(x)))
        return y if self.fuse is None else self.fuse(torch.cat((x, y), 1), self.act)


def _published(
    embed_dims: tuple[int, ...], depths: tuple[int, ...], expand_ratio: int, fuse: tuple[bool, ...]
) -> dict[str, Any]:
    return {
        "embed_dims": embed_dims,
        "depths": depths,
        "expand_ratio": expand_ratio,
        "mlp_ratio": 2,
        "fuse": fuse,
        "stem_dims": 16,
    }


@register_backbone("affnet")
class AFFNet(Backbone):
    """Five stages of strides 2 to 32: two of inverted residuals, three of blocks that filter frequencies.

    Images of any size; odd ones are rounded up.

    Args:
        arch: a published variant, or a dict as those in ``archs``: ``depths`` are inverted residuals in the
            first two stages, then blocks; ``fuse`` tells for each of the last three whether it is joined
            with what it began with.
        attn_norm: "layer_norm_2d" norms an image as a whole, "layer_norm" the channels of each position, and
            adds its epsilon to the standard deviation, "batch_norm" is usual. The authors' configurations
            are not published, and weights do not tell the first two from each other.
        act: "silu", "relu" or "gelu", everywhere.
        num_blocks, threshold: see :class:`AdaptiveFrequencyFilter`.
        output_stride: 16 or 8 instead of 32, for dense tasks: the last or the last two stages do not halve
            their maps; the stage after one that does not is dilated.
        drop_path_rate: of the last block; it grows linearly from 0. Published: 0.
        **kwargs: see :class:`~dense.base.Backbone`.
    """

    paper = (
        'Huang et al., "Adaptive Frequency Filters As Efficient Global Token Mixers", ICCV 2023, '
        "arXiv 2307.14008"
    )
    code = "microsoft/TokenMixers"
    licence = "MIT"
    archs = {
        "et": _published((32, 48, 64, 104, 144), (1, 3, 2, 4, 3), 2, (True, True, True)),
        "t": _published((32, 48, 96, 160, 192), (1, 3, 2, 4, 3), 4, (True, True, True)),
        "small": _published((32, 64, 128, 256, 320), (1, 3, 2, 4, 3), 4, (True, True, True)),
        "base": _published((64, 128, 256, 512, 640), (1, 3, 2, 4, 3), 4, (True, False, False)),
        "large": _published((64, 128, 256, 512, 768), (2, 6, 4, 18, 6), 4, (True, False, False)),
    }
    num_parameters = {
        "et": 1_436_264,
        "t": 2_654_232,
        "small": 5_568_696,
        "base": 17_178_104,
        "large": 46_068_088,
    }
    published = results(
        ("ImageNet-1K top-1, %", "ADE20K DeepLabv3 mIoU", "VOC DeepLabv3 mIoU"),
        {"et": (73.0, 33.0, 76.1), "t": (77.0, 36.9, 77.8), "small": (79.8, 38.4, 80.5)},
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "small",
        *,
        attn_norm: str = "layer_norm_2d",
        act: str = "silu",
        num_blocks: int = 8,
        threshold: float = 0.01,
        output_stride: int = 32,
        drop_path_rate: float = 0.0,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        for name, value, known in (
            ("attn_norm", attn_norm, list(NORMS)),
            ("act", act, [name for name in ACTIVATIONS if name]),
            ("output_stride", output_stride, [8, 16, 32]),
            ("the number of depths", len(spec["depths"]), [5]),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, found {value!r}")
        self.act = act
        dims, ratio = spec["embed_dims"], spec["expand_ratio"]
        of_stages = drop_path_rates(drop_path_rate, spec["depths"][2:])
        unit = {"mlp_ratio": spec["mlp_ratio"], "num_blocks": num_blocks, "threshold": threshold}
        strides, dilation = [2], 1
        for i, dim in enumerate(dims):
            if i == 0:
                channels = spec["stem_dims"]
                down = Stem(self.in_channels, channels, act)
            else:
                channels, stride = dims[i - 1], 1 if strides[-1] == output_stride else 2
                strides.append(strides[-1] * stride)
                down = InvertedResidual(channels, dim, ratio, stride, dilation, act)
                dilation *= 2 // stride
            self.downsamples.append(down)
            if i < 2:  # the first of the second stage is its downsampling
                widths = [channels] + [dim] * spec["depths"][i]
                first = 0 if i == 0 else 1
                blocks = [
                    InvertedResidual(width, dim, ratio, act=act)
                    for width in widths[first : spec["depths"][i]]
                ]
            else:
                blocks = [
                    GlobalUnit(dim, of_stages[i - 2], spec["fuse"][i - 2], act=act, norm=attn_norm, **unit)
                ]
            self.stages.append(nn.Sequential(*blocks))
        init_he(self)
        self.set_outputs(dims, strides)

    def make_head(self, num_classes: int) -> FinalConvHead:
        hidden = min(4 * self.num_features, 960)
        head = FinalConvHead(self.num_features, hidden, num_classes, self.act)
        init_he(head)
        return head

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        batch_norm = any(key.endswith(".norm1.running_mean") for key in state_dict)
        filters = [value for key, value in state_dict.items() if key.endswith(".filter.w1")]
        return cls.drop_defaults(
            attn_norm="batch_norm" if batch_norm else "layer_norm_2d",
            num_blocks=filters[0].shape[1] if filters else 8,
        )

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """All that weights show, of any depth and width."""
        stages = [f"backbone.stages.{i}." for i in range(5)]

        def count(start: str) -> int:
            return len({key.removeprefix(start).split(".")[0] for key in state_dict if key.startswith(start)})

        def ratio(start: str, default: float) -> float:
            if f"{start}.project.conv.weight" not in state_dict:
                return default
            expand = state_dict.get(f"{start}.expand.conv.weight")
            return 1 if expand is None else _as_integer(expand.shape[0] / expand.shape[1])

        last = [f"backbone.downsamples.{i}.project.conv.weight" for i in range(5)]
        last[0] = f"{stages[0]}0.project.conv.weight"
        stem = state_dict.get("backbone.downsamples.0.conv.weight", ())
        return {
            "embed_dims": tuple(len(state_dict.get(key, ())) for key in last),
            "depths": (count(stages[0]), 1 + count(stages[1]), *(count(f"{s}0.blocks.") for s in stages[2:])),
            "expand_ratio": ratio("backbone.downsamples.2", spec["expand_ratio"]),
            "mlp_ratio": ratio(f"{stages[2]}0.blocks.0.mlp", spec["mlp_ratio"]),
            "fuse": tuple(f"{stage}0.fuse.conv.weight" in state_dict for stage in stages[2:]),
            "stem_dims": len(stem),
        }

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts = {"block.exp_1x1.block": "expand", "block.conv_3x3.block": "depthwise"}
        parts |= {"block.red_1x1.block": "project", ".block.": "."}
        state = cls.find_trunk(state_dict)
        for old, new in parts.items():
            state = {key.replace(old, new): value for key, value in state.items()}
        rules = [
            (r"conv_1\.(.*)", r"backbone.downsamples.0.\1"),
            (r"layer_1\.(.*)", r"backbone.stages.0.\1"),
            (r"layer_2\.0\.(.*)", r"backbone.downsamples.1.\1"),
            (r"conv_1x1_exp\.(.*)", r"head.conv.\1"),
            (r"classifier\.(.*)", r"head.\1"),
        ]
        later = {int(key.split(".")[1]) for key in state if key.startswith("layer_2.")} - {0}
        rules += [(rf"layer_2\.{n}\.(.*)", rf"backbone.stages.1.{n - 1}.\1") for n in later]
        for i in range(2, 5):
            unit, ours = rf"layer_{i + 1}\.1\.", f"backbone.stages.{i}.0."
            rules += [
                (rf"layer_{i + 1}\.0\.(.*)", rf"backbone.downsamples.{i}.\1"),
                (unit + r"global_rep\.(\d+\.(?:mlp|norm[12]|filter)\..*)", ours + r"blocks.\1"),
                (unit + r"global_rep\.\d+\.(.*)", ours + r"norm.\1"),
                (unit + r"conv_proj\.(.*)", ours + r"proj.\1"),
                (unit + r"fusion\.(.*)", ours + r"fuse.\1"),
            ]
        return rename_keys(state, rules)


def _round_to_eights(channels: int) -> int:
    """The nearest multiple of 8, at least 8, and not below 0.9 of what it is of."""
    rounded = max(8, (channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _as_integer(ratio: float) -> float:
    return int(ratio) if ratio == int(ratio) else ratio
