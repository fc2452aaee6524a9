"""FFNet: convolutions take the places of queries, keys and values, and GELU that of the softmax.

Yun, Lee, Ro, "MetaMixer Is All You Need", arXiv 2406.02021. Published code: ysj9909/FFNet, Apache-2.0.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    MLP,
    ConvNorm,
    DropPath,
    MergedConv,
    NormConv,
    PooledLinear,
    ReparameterizedConv,
    SqueezeExcitation,
    add_scaled,
    drop_path_rates,
    identity_kernel,
    init_normal,
    make_scale,
    pad_kernel,
)


class RepDW(ReparameterizedConv):
    """Depthwise convolutions 7x7 and 3x3 of the same map, each normed, summed; one 7x7 at evaluation:
    (B, a, H, W) to (B, b, H / stride, W / stride), odd sizes rounded up.

    Args:
        in_channels: a.
        out_channels: b, a multiple of a; as many channels each have of the result as b is to a.
        stride: of both.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(stride, 3, in_channels)
        self.large = ConvNorm(in_channels, out_channels, 7, stride, 3, in_channels)
        self.small = ConvNorm(in_channels, out_channels, 3, stride, 1, in_channels)

    def forward_branches(self, x: Tensor) -> Tensor:
        return self.large(x) + self.small(x)

    def merge(self) -> tuple[Tensor, Tensor]:
        weight, bias = self.large.merge()
        small_weight, small_bias = self.small.merge()
        return weight + pad_kernel(small_weight, 7), bias + small_bias


class ResidualNormConv(NormConv):
    """x + 1x1 convolution of the normed x, one convolution at evaluation: (B, C, H, W) to the same."""

    def __init__(self, embed_dims: int):
        super().__init__(embed_dims, embed_dims, bias=False)

    def forward_branches(self, x: Tensor) -> Tensor:
        return x + super().forward_branches(x)

    def merge(self) -> tuple[Tensor, Tensor]:
        weight, bias = super().merge()
        return weight + identity_kernel(weight), bias


class PatchMerging(nn.Sequential):
    """Depthwise convolutions of stride 2, then a mixing of channels: (B, a, H, W) to (B, b, H / 2, W / 2).

    Args:
        in_channels: a.
        out_channels: b, a multiple of a.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(RepDW(in_channels, out_channels, stride=2), ResidualNormConv(out_channels))


class Stem(nn.Sequential):
    """Two convolutions 3x3 of stride 2: (B, in_channels, H, W) to (B, C, H / 4, W / 4)."""

    def __init__(self, in_channels: int, hidden_dims: int, embed_dims: int):
        super().__init__(
            ConvNorm(in_channels, hidden_dims, 3, 2, 1), ConvNorm(hidden_dims, embed_dims, 3, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self[1](self[0](x, "gelu"))


class TokenMixer(nn.Module):
    """What attention does, by convolutions: (B, C, H, W) to the same.

    The query is a 1x1 convolution of x. Keys and values are weights: a depthwise convolution by keys gives
    the similarities, GELU takes the softmax's place, a depthwise convolution by values gathers.

    Args:
        embed_dims: C.
        kernel_sizes: of keys and of values, odd; of size 7 are those of :class:`RepDW`, others are plain.
    """

    def __init__(self, embed_dims: int, kernel_sizes: tuple[int, int]):
        super().__init__()
        self.query = ConvNorm(embed_dims, embed_dims, 1)
        self.key, self.value = (_depthwise(embed_dims, size) for size in kernel_sizes)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(self.key(self.query(x), "gelu"))


class ChannelMixer(nn.Module):
    """A depthwise convolution, then an MLP of each position: (B, C, H, W) to the same.

    Args:
        embed_dims: C.
        kernel_size: odd; of size 7 it is :class:`RepDW`, else one convolution and its norm.
        hidden_dims: width of the MLP.
    """

    def __init__(self, embed_dims: int, kernel_size: int, hidden_dims: int):
        super().__init__()
        if kernel_size == 7:
            self.conv = RepDW(embed_dims, embed_dims)
        else:
            self.conv = ConvNorm(embed_dims, embed_dims, kernel_size, 1, kernel_size // 2, embed_dims)
        self.mlp = MLP(embed_dims, hidden_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Token mixer, squeeze and excitation if wanted, channel mixer: (B, C, H, W) to the same.

    Both mixers are residual branches, of inputs that no norm touches.

    Args:
        embed_dims: C.
        kernel_size: of the channel mixer.
        token_kernel_sizes: of the token mixer.
        hidden_dims: width of the MLP.
        layer_scale: initial factor of the channels of both branches; 0 for none.
        se: gate the channels between the mixers.
        drop_path_rate: of both branches.
    """

    def __init__(
        self,
        embed_dims: int,
        kernel_size: int,
        token_kernel_sizes: tuple[int, int],
        hidden_dims: int,
        layer_scale: float,
        se: bool,
        drop_path_rate: float,
    ):
        super().__init__()
        self.token_mixer = TokenMixer(embed_dims, token_kernel_sizes)
        self.se = SqueezeExcitation(embed_dims, _eighths(embed_dims / 4)) if se else nn.Identity()
        self.channel_mixer = ChannelMixer(embed_dims, kernel_size, hidden_dims)
        scaled = layer_scale > 0
        self.scale1 = make_scale(embed_dims, layer_scale) if scaled else None
        self.scale2 = make_scale(embed_dims, layer_scale) if scaled else None
        self.drop_path1, self.drop_path2 = DropPath(drop_path_rate), DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.se(_add(x, self.drop_path1(self.token_mixer(x)), self.scale1))
        return _add(x, self.drop_path2(self.channel_mixer(x)), self.scale2)


def _depthwise(channels: int, kernel_size: int) -> nn.Module:
    if kernel_size == 7:
        return RepDW(channels, channels)
    return MergedConv(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)


def _eighths(channels: float) -> int:
    """The nearest multiple of 8, at least 8."""
    return max(8, int(channels + 4) // 8 * 8)


def _add(x: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
    return add_scaled(x, branch, None if scale is None else scale[:, None, None])


def _published(
    width: int, depths: tuple[int, ...], kernel_size: int, layer_scale: float = 0.0
) -> dict[str, Any]:
    return {
        "embed_dims": tuple(width * 2**i for i in range(4)),
        "depths": depths,
        "kernel_sizes": (kernel_size,) * 4,
        "token_kernel_sizes": ((3, 3), (3, 3), (7, 7), (7, 7)),
        "mlp_ratios": (3, 3, 3, 3),
        "stem_dims": 64,
        "layer_scale": layer_scale,
    }


@register_backbone("ffnet")
class FFNet(Backbone):
    """FFNet's trunk; strides 4, 8, 16, 32. Images of any size; odd ones are rounded up.

    Args:
        arch: one of :attr:`archs`, or a mapping with its keys, an entry a stage: ``kernel_sizes`` of channel
            mixers, ``token_kernel_sizes`` of keys and values; ``layer_scale`` is the initial factor of all
            branches, 0 for none.
        drop_path_rate: of the last block; those before it rise to it linearly from 0. Published: 0.1, 0.15,
            0.35, 0.4 for the four variants.
        se: squeeze and excitation in every second block of a stage, from its first; no published weights
            have it.
        **kwargs: of :class:`Backbone`.
    """

    paper = 'Yun, Lee, Ro, "MetaMixer Is All You Need", arXiv 2406.02021'
    code = "ysj9909/FFNet"
    licence = "Apache-2.0"
    archs = {
        "1": _published(80, (2, 2, 8, 2), 3),
        "2": _published(88, (3, 3, 15, 3), 7),
        "3": _published(96, (4, 4, 22, 5), 7, 1e-6),
        "4": _published(128, (4, 4, 27, 3), 7, 1e-6),
    }
    example_arch = {"embed_dims": (16, 32, 64, 128)}
    num_parameters = {"1": 13_775_656, "2": 27_208_408, "3": 48_817_896, "4": 79_868_968}
    published = results(
        (
            "ImageNet-1K top-1, %, 256 x 256",
            "ImageNet-1K top-1, %, 256 x 256, distilled",
            "ImageNet-1K top-1, %, 384 x 384",
            "ms on the paper's iPhone, 256 x 256",
            "ms on the paper's iPhone, 384 x 384",
        ),
        {
            "1": (81.3, 82.1, None, 1.8, None),
            "2": (82.9, 83.7, None, 3.1, None),
            "3": (83.9, 84.5, 84.5, 4.5, 9.1),
            "4": (None, None, 85.3, None, 15.2),
        },
    )

    def __init__(
        self, arch: str | Mapping[str, Any] = "1", *, drop_path_rate: float = 0.0, se: bool = False, **kwargs
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims, depths = spec["embed_dims"], spec["depths"]
        for i, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            self.downsamples.append(
                PatchMerging(dims[i - 1], dims[i])
                if i
                else Stem(self.in_channels, spec["stem_dims"], dims[0])
            )
            hidden = int(dims[i] * spec["mlp_ratios"][i])
            kernels = spec["kernel_sizes"][i], tuple(spec["token_kernel_sizes"][i])
            self.stages.append(
                nn.Sequential(
                    *[
                        Block(dims[i], *kernels, hidden, spec["layer_scale"], se and j % 2 == 0, rate)
                        for j, rate in enumerate(rates)
                    ]
                )
            )
        init_normal(self, nn.Conv2d, nn.Linear)
        self.set_outputs(dims, (4, 8, 16, 32))

    def make_head(self, num_classes: int) -> PooledLinear:
        norm = nn.BatchNorm2d(self.num_features)
        return PooledLinear(self.num_features, num_classes, norm, norm_first=True)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return cls.drop_defaults(se="backbone.stages.0.0.se.fc1.weight" in state_dict)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """What converted weights, merged ones too, are of; a stage that they lack is as in ``spec``."""
        own = super().adapt_arch(spec, state_dict)
        names = ("embed_dims", "kernel_sizes", "token_kernel_sizes", "mlp_ratios")
        found = {name: list(own[name]) for name in names}
        for i in range(len(own["depths"])):
            block = f"backbone.stages.{i}.0."
            fc1 = state_dict.get(f"{block}channel_mixer.mlp.fc1.weight")
            if fc1 is None:
                continue
            found["embed_dims"][i] = fc1.shape[1]
            found["mlp_ratios"][i] = fc1.shape[0] / fc1.shape[1]
            parts = ("channel_mixer.conv", "token_mixer.key", "token_mixer.value")
            size, *sizes = (_kernel_size(state_dict, f"{block}{part}.") for part in parts)
            found["kernel_sizes"][i], found["token_kernel_sizes"][i] = size, tuple(sizes)
        kernel = _kernels(state_dict, "backbone.downsamples.0.0.")
        scaled = "backbone.stages.0.0.scale1" in state_dict
        return {
            **own,
            **{name: tuple(of_stages) for name, of_stages in found.items()},
            "stem_dims": len(kernel[0]) if kernel else own["stem_dims"],
            "layer_scale": (own["layer_scale"] or 1e-6) if scaled else 0.0,
        }

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state_dict = {_move(key): value for key, value in cls.find_trunk(state_dict).items()}
        block = r"(stages\.\d+\.\d+)\."
        renamed = rename_keys(
            state_dict,
            [
                (r"(downsamples\..*)", r"backbone.\1"),
                (block + r"token_mixer\.0\.main\.fc\.(.*)", r"backbone.\1.token_mixer.query.\2"),
                (block + r"token_mixer\.0\.main\.conv1\.(.*)", r"backbone.\1.token_mixer.key.\2"),
                (block + r"token_mixer\.0\.main\.conv2\.(.*)", r"backbone.\1.token_mixer.value.\2"),
                (block + r"token_mixer\.0\.layer_scale", r"backbone.\1.scale1"),
                (block + r"token_mixer\.1\.(.*)", r"backbone.\1.se.\2"),
                (block + r"channel_mixer\.main\.(fc\d\..*)", r"backbone.\1.channel_mixer.mlp.\2"),
                (block + r"channel_mixer\.main\.(conv\..*)", r"backbone.\1.channel_mixer.\2"),
                (block + r"channel_mixer\.layer_scale", r"backbone.\1.scale2"),
                (r"norm\.(.*)", r"head.norm.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )
        return {
            key: value.flatten(1 if "mlp" in key else 0)
            if re.search(r"\.mlp\..*weight|\.scale\d", key)
            else value
            for key, value in renamed.items()
        }


def _kernels(state_dict: Mapping[str, Tensor], start: str) -> list[Tensor]:
    """Those whose keys start so."""
    return [value for key, value in state_dict.items() if key.startswith(start) and value.ndim == 4]


def _kernel_size(state_dict: Mapping[str, Tensor], start: str) -> int:
    """Of the largest of branches."""
    return max((kernel.shape[-1] for kernel in _kernels(state_dict, start)), default=0)


def _move(key: str) -> str:
    """A published key by our names of its parts, and patch merging before its stage."""
    branch = re.sub(
        r"(proj\.0|main\.conv\d?)\.(conv1?)\.(?=c\.|bn\.)",
        lambda found: f"{found[1]}.{'small' if found[2] == 'conv1' else 'large'}.",
        key,
    )
    key = branch.replace(".c.", ".conv.").replace(".bn.", ".norm.").replace("proj.1.conv.", "proj.1.")
    key = re.sub(r"^patch_embed\.([02])\.", lambda found: f"downsamples.0.{int(found[1]) // 2}.", key)
    if match := re.match(r"stages\.([1-9]\d*)\.(\d+)\.(proj\.)?", key):
        stage, index = match[1], int(match[2])
        key = (f"stages.{stage}.{index - 1}." if index else f"downsamples.{stage}.") + key[match.end() :]
    return key
