"""SpaRTAN: two reaches of convolution in space, and channels as waves that a learned rotation modulates.

Pay et al., "SpaRTAN: Spatial Reinforcement Token-based Aggregation Network for Visual Recognition", IJCNN
2025, arXiv 2507.10999. Published code: henry-pay/SpaRTAN, Apache-2.0.
"""

import re
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import CheckpointError, rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    ConvNorm,
    DropPath,
    Linear,
    PooledLinear,
    SqueezeExcitation,
    add_scaled,
    drop_path_rates,
    make_scale,
    on_channels_last,
)
from ..ops import complete

EPS = 1e-6  # of all norms


class SpatialMixer(nn.Module):
    """Two convolutions of other reach beside each other, each with its gates: (B, H, W, C) to the same.

    What they see has its contrast changed: the difference of each channel to its mean is scaled by 1 + gamma.

    Args:
        embed_dims: C, a multiple of 8.
        dense: whether the convolutions join all of their C / 2 channels, or are depthwise.
    """

    def __init__(self, embed_dims: int, dense: bool):
        super().__init__()
        if embed_dims % 8:
            raise ValueError(f"embed_dims must be a multiple of 8, found {embed_dims}")
        width = embed_dims // 2
        groups = 1 if dense else width
        self.proj_in = Linear(embed_dims, width)
        self.gamma = make_scale(width, 1e-5)
        self.near = ConvNorm(width, width, 3, padding=1, groups=groups, norm_eps=EPS)
        self.near_gate = SqueezeExcitation(width, width // 4)
        self.spread = nn.Conv2d(width, width, 3, padding=2, dilation=2, groups=groups, bias=False)
        self.far = ConvNorm(width, width, 3, padding=2, dilation=2, groups=groups, norm_eps=EPS)
        self.far_gate = SqueezeExcitation(width, width // 4)
        self.proj_out = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj_in(x)
        x = x.lerp(x.mean((1, 2), keepdim=True), -self.gamma.to(x.dtype))  # lerp takes one type
        x = x.permute(0, 3, 1, 2)  # (B, C / 2, H, W)
        near = self.near_gate(self.near(x, "gelu"))
        far = self.far_gate(self.far(self.spread(x), "gelu"))
        return self.proj_out(torch.cat((near, far), 1).permute(0, 2, 3, 1))


class ChannelMixer(nn.Module):
    r"""Wave aggregation: (B, H, W, C) to the same.

    Each position has E = r C waves :math:`z = w \odot \theta`, amplitude times phase, both made from x. To
    all of them the wave of the channel in which x is largest is added; then pairs of channels, as complex
    numbers, are multiplied by learned ones. A convolution, gates and a projection follow.

    Where two channels are largest, the first counts. Pairs are rotated in float32 or wider.

    Args:
        embed_dims: C.
        expand_ratio: r, above 1; E must be even.
        dense: whether the convolution is depthwise, as beside a dense :class:`SpatialMixer`, or has C groups.
    """

    def __init__(self, embed_dims: int, expand_ratio: int, dense: bool):
        super().__init__()
        hidden = embed_dims * expand_ratio
        if expand_ratio < 2 or hidden % 2:
            raise ValueError(f"expand_ratio must be at least 2 and give even widths, found {expand_ratio}")
        # plain layers: oneDNN's joined steps gain nothing on a product this narrow
        self.phase = nn.Linear(embed_dims, hidden)
        self.amplitude = nn.Linear(embed_dims, hidden)
        self.rotation = nn.Parameter(torch.randn(hidden // 2, 2))  # real and imaginary parts
        groups = hidden if dense else embed_dims
        self.conv = ConvNorm(hidden, hidden, 3, padding=1, groups=groups, norm_eps=EPS)
        self.gate = SqueezeExcitation(hidden, embed_dims // 4)
        self.proj_out = Linear(hidden, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        waves = self.amplitude(x) * F.gelu(self.phase(x))  # (B, H, W, E)
        waves = waves + waves.gather(-1, x.argmax(-1, keepdim=True))
        y = rotate_pairs(waves, self.rotation).to(waves.dtype).permute(0, 3, 1, 2)
        return self.proj_out(self.gate(self.conv(y, "gelu")).permute(0, 2, 3, 1))


def rotate_pairs(x: Tensor, factors: Tensor) -> Tensor:
    """Channels 2j and 2j + 1, as a complex number, times the j-th factor.

    Args:
        x: (..., E), E even.
        factors: (E / 2, 2), real and imaginary parts.

    Returns:
        (..., E), float32 or wider.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    pairs, factors = x.to(dtype).unflatten(-1, (-1, 2)), factors.to(dtype)
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(factors)).flatten(-2)


class Block(nn.Module):
    """Spatial mixer, then channel mixer, each normed before, and scaled: (B, H, W, C) to the same.

    The norms are over all positions and channels of an image together.

    Args:
        embed_dims, expand_ratio, dense: see the mixers.
        drop_path_rate: of both branches.
    """

    def __init__(self, embed_dims: int, expand_ratio: int, dense: bool, drop_path_rate: float = 0.0):
        super().__init__()
        self.norm1 = nn.GroupNorm(1, embed_dims, EPS)
        self.spatial = SpatialMixer(embed_dims, dense)
        self.scale1 = nn.Parameter(torch.full((1, 1, 1, embed_dims), 1e-5))  # as published, it decays
        self.norm2 = nn.GroupNorm(1, embed_dims, EPS)
        self.channel = ChannelMixer(embed_dims, expand_ratio, dense)
        self.scale2 = nn.Parameter(torch.full((1, 1, 1, embed_dims), 1e-5))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        y = self.spatial(on_channels_last(self.norm1, x))
        x = add_scaled(x, self.drop_path(y), self.scale1)
        y = self.channel(on_channels_last(self.norm2, x))
        return add_scaled(x, self.drop_path(y), self.scale2)


class Stem(nn.Module):
    """Two convolutions of stride 2: (B, in_channels, H, W) to (B, C, H / 4, W / 4), rounded up."""

    def __init__(self, in_channels: int, embed_dims: int):
        super().__init__()
        self.conv1 = ConvNorm(in_channels, embed_dims // 2, 3, 2, 1, norm_eps=EPS)
        self.conv2 = ConvNorm(embed_dims // 2, embed_dims, 3, 2, 1, norm_eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, "gelu"), "gelu")


class Downsampling(nn.Module):
    """Convolution 2x2 of stride 2, norm, SiLU: (B, in_channels, H, W) to (B, out_channels, H / 2, W / 2).

    Args:
        in_channels, out_channels: of the maps.
        rounds_up: zeros complete odd sides; else their last pixels are left out.
    """

    def __init__(self, in_channels: int, out_channels: int, rounds_up: bool):
        super().__init__()
        self.conv = ConvNorm(in_channels, out_channels, 2, 2, norm_eps=EPS)
        self.rounds_up = rounds_up

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(complete(x, 2) if self.rounds_up else x, "silu")


@register_backbone("spartan")
class SpaRTAN(Backbone):
    """Four stages of spatial and channel mixers, strides 4 to 32. Images of any size; odd ones round up.

    Args:
        arch: a published variant, or a dict as those in ``archs``. In the first ``dense_stages`` (published:
            half of them) the spatial mixers' convolutions are dense and the channel mixers' depthwise; in the
            others these are depthwise, and those have groups. The ``strides`` are those of each stage's
            downsampling, the first of the stem, 4; 1 for none.
        drop_path_rate: of n blocks the k-th, from 0, drops k / n of it. Published: 0.1.
        reference_quirks: as published, odd maps are rounded down.
        **kwargs: see :class:`~dense.base.Backbone`.

    Attributes:
        no_weight_decay: parts of names of the weights that the published training decays not, besides all
            that have one axis.
    """

    paper = (
        'Pay et al., "SpaRTAN: Spatial Reinforcement Token-based Aggregation Network for Visual '
        'Recognition", IJCNN 2025, arXiv 2507.10999'
    )
    code = "henry-pay/SpaRTAN"
    licence = "Apache-2.0"
    archs = {
        "t": {
            "embed_dims": (32, 64, 128, 256),
            "depths": (3, 3, 12, 2),
            "expand_ratios": (4, 4, 2, 2),
            "strides": (4, 2, 2, 2),
            "dense_stages": 2,
        }
    }
    num_parameters = {"t": 3_820_296}
    published = results(("ImageNet-1K top-1, %",), {"t": (77.7,)})
    exempt = {"bfloat16": "rounding changes which channel of a position is the largest"}
    channels_last = True
    no_weight_decay = ("norm", "gamma")

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "t",
        *,
        drop_path_rate: float = 0.0,
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims, depths, strides = spec["embed_dims"], spec["depths"], spec["strides"]
        _check_strides(dims, strides)
        count = max(1, sum(depths))
        of_stages = drop_path_rates(drop_path_rate * (count - 1) / count, depths)
        for i, (dim, ratio, rates) in enumerate(zip(dims, spec["expand_ratios"], of_stages, strict=True)):
            down = nn.Identity()
            if i == 0:
                down = Stem(self.in_channels, dim)
            elif strides[i] == 2:
                down = Downsampling(dims[i - 1], dim, rounds_up=not reference_quirks)
            self.downsamples.append(down)
            blocks = [Block(dim, ratio, i < spec["dense_stages"], rate) for rate in rates]
            self.stages.append(nn.Sequential(*blocks))
        _init(self)
        self.set_outputs(dims, [prod(strides[: i + 1]) for i in range(len(dims))])
        if reference_quirks:
            self.min_size = self.strides[-1] - 3  # which the stem rounds up

    def make_head(self, num_classes: int) -> PooledLinear:
        return PooledLinear(self.num_features, num_classes)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """All that weights show, of any depth, width and number of stages."""
        pattern = re.compile(r"backbone\.(?:stages|downsamples)\.(\d+)\.")
        stages = range(1 + max((int(m[1]) for key in state_dict if (m := pattern.match(key))), default=-1))
        found = {"embed_dims": [], "depths": [], "expand_ratios": [], "strides": []}
        dense_stages = 0
        for i in stages:
            block, down = f"backbone.stages.{i}.", f"backbone.downsamples.{i}."
            numbers = {key.split(".")[3] for key in state_dict if key.startswith(block)}
            width = state_dict.get(f"{down}conv.conv.weight", state_dict.get(f"{down}conv2.conv.weight"))
            dim = found["embed_dims"][-1] if width is None and i else 0 if width is None else len(width)
            phase, near = (
                state_dict.get(f"{block}0.{n}.weight") for n in ("channel.phase", "spatial.near.conv")
            )
            found["embed_dims"].append(dim)
            found["depths"].append(len(numbers))
            found["expand_ratios"].append(2 if phase is None or not dim else len(phase) // dim)
            found["strides"].append((1 if width is None else 2) if i else 4)
            if near is not None and near.shape[1] > 1:
                dense_stages = i + 1
        return {**{name: tuple(values) for name, values in found.items()}, "dense_stages": dense_stages}

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state = _number_stages(cls.find_trunk(state_dict))
        block, ours = r"stages\.(\d+)\.(\d+)\.", r"backbone.stages.\1.\2."
        spatial, channel = block + r"smixer\.", block + r"cmixer\."
        renamed = rename_keys(
            state,
            [
                (r"conv\.0\.(.*)", r"backbone.downsamples.0.conv1.\1"),
                (r"conv\.1\.(.*)", r"backbone.downsamples.0.conv2.\1"),
                (r"downsamples\.(\d+)\.(.*)", r"backbone.downsamples.\1.conv.\2"),
                (block + r"(scale|norm)_([12])(.*)", ours + r"\3\4\5"),
                (spatial + r"h_conv\.(.*)", ours + r"spatial.near.\3"),
                (spatial + r"l_conv\.0\.conv\.(.*)", ours + r"spatial.spread.\3"),
                (spatial + r"l_conv\.1\.(.*)", ours + r"spatial.far.\3"),
                (spatial + r"h_attn\.squeeze\.(.*)", ours + r"spatial.near_gate.fc1.\3"),
                (spatial + r"h_attn\.expand\.(.*)", ours + r"spatial.near_gate.fc2.\3"),
                (spatial + r"l_attn\.squeeze\.(.*)", ours + r"spatial.far_gate.fc1.\3"),
                (spatial + r"l_attn\.expand\.(.*)", ours + r"spatial.far_gate.fc2.\3"),
                (spatial + r"(gamma|proj_in\..*|proj_out\..*)", ours + r"spatial.\3"),
                (channel + r"theta\.(.*)", ours + r"channel.phase.\3"),
                (channel + r"proj\.(.*)", ours + r"channel.amplitude.\3"),
                (channel + r"complex", ours + r"channel.rotation"),
                (channel + r"attn\.squeeze\.(.*)", ours + r"channel.gate.fc1.\3"),
                (channel + r"attn\.expand\.(.*)", ours + r"channel.gate.fc2.\3"),
                (channel + r"(conv\..*|proj_out\..*)", ours + r"channel.\3"),
                (r"linear\.(.*)", r"head.fc.\1"),
            ],
        )
        return {key: _convert(key, value) for key, value in renamed.items()}


def _check_strides(dims: tuple[int, ...], strides: tuple[int, ...]) -> None:
    if len(strides) != len(dims) or strides[0] != 4 or not {*strides[1:]} <= {1, 2}:
        raise ValueError(f"strides must be 4, then 1 or 2 for each further stage, found {tuple(strides)}")
    for narrow, wide, stride in zip(dims, dims[1:], strides[1:], strict=False):
        if stride == 1 and narrow != wide:
            raise ValueError(f"a stage of stride 1 must keep the width {narrow}, found {wide}")


def _number_stages(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blocks and downsamplings, one sequence as published, by stage.

    A published stage without blocks has no downsampling after it. Then the kind of blocks tells where the
    next one begins.
    """
    numbers = sorted({int(key.split(".")[1]) for key in state_dict if re.match(r"layers\.\d+\.", key)})
    places, stage, block, kind = {}, 0, 0, None
    for n in numbers:
        if f"layers.{n}.conv.weight" in state_dict:
            stage, block, kind = stage + 1, 0, None
            places[n] = f"downsamples.{stage}."
            continue
        try:
            conv, phase = (
                state_dict[f"layers.{n}.{name}.weight"].shape
                for name in ("smixer.h_conv.conv", "cmixer.theta")
            )
        except KeyError as error:
            raise CheckpointError(f"SpaRTAN: layers.{n} is no block, it has no {error}") from None
        own = (conv[1] > 1, phase[0] // phase[1])
        if kind not in (None, own):
            stage, block = stage + 1, 0
        kind = own
        places[n] = f"stages.{stage}.{block}."
        block += 1
    renamed = {}
    for key, value in state_dict.items():
        if match := re.match(r"layers\.(\d+)\.", key):
            key = places[int(match[1])] + key[match.end() :]
        renamed[key] = value
    return renamed


def _convert(key: str, value: Tensor) -> Tensor:
    if key.endswith(("proj_in.weight", "proj_out.weight", "phase.weight", "amplitude.weight")):
        return value.flatten(1)  # 1x1 convolutions, here linear layers
    if key.endswith(".gamma"):
        return value.flatten()
    if key.endswith((".scale1", ".scale2")):
        return value.view(1, 1, 1, -1)
    return value.view(-1, 2) if key.endswith(".rotation") else value


def _init(module: nn.Module) -> None:
    """Normal by the fan out of a group, of all convolutions; biases 0."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fan_out = len(layer.weight) * layer.weight[0, 0].numel() // getattr(layer, "groups", 1)
            nn.init.normal_(layer.weight, 0.0, (2 / fan_out) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
