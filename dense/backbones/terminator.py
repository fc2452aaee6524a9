"""Terminator: slow networks make the kernels of a fast one, which has no residual connections.

Zhang, "HyperZ.Z.W Operator Connects Slow-Fast Networks for Full Context Interaction", 2024, arXiv 2401.17948.
Published code: hyperevolnet/Terminator (later emptied), without a licence. The slow networks follow Romero et
al., "FlexConv: Continuous Kernel Convolutions with Differentiable Kernel Sizes", ICLR 2022, arXiv 2110.08059.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import gcd, pi, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys

from ..base import BaseBackbone, register_backbone
from ..layers import PooledLinear
from ..ops import dynamic_depthwise_conv

EPS = 1e-5  # of all standardisations


# ------------------------------------------------------------------------------------------- slow networks


class HyperNetwork(nn.Module):
    r"""A kernel from the coordinates of its places: a multiplicative filter network.

    With coordinates g in [-1, 1], :math:`h_0 = \sin(W_0 g + b_0)`, and for i = 1, ..., n

    .. math:: h_i = \sin(W_i g + b_i) \odot (A_i h_{i-1} + a_i) + p,

    p being a learned map that channels and layers share; the kernel is :math:`O h_n + o`. It is computed in
    float32 or wider.

    With ``context_channels``, C, it also depends on maps (B, C, H, W): of u, an MLP of their means over the
    kernel's places, each :math:`h_i` is multiplied by :math:`C_i u + c_i`, after it has been put to
    :math:`\mathrm{sg}(h_i) + 0.1 \, h_i / \|h_i\|` channel by channel (sg: no gradient).

    Args:
        out_channels: of the kernel.
        hidden_dims: width of the network.
        depth: n.
        size: (L,) or (H, W) of the kernel.
        context_channels: C; None for a kernel that is the same for all maps.
        batch_context: one kernel for a batch, of the mean of its maps, as published.
        rescale_after_load: divide O by the root of the number of places whenever weights are loaded. A fresh
            network has it divided; the published code divides it at the first call, and again at the first
            one with weights from a file.
    """

    frequency = 10.0  # the published configs leave it out

    def __init__(
        self,
        out_channels: int,
        hidden_dims: int,
        depth: int,
        size: Sequence[int],
        context_channels: int | None = None,
        batch_context: bool = False,
        rescale_after_load: bool = False,
    ):
        super().__init__()
        self.size = tuple(size)
        self.batch_context = batch_context
        self.filters = nn.ModuleList(nn.Linear(len(size), hidden_dims) for _ in range(depth + 1))
        self.linears = nn.ModuleList(nn.Linear(hidden_dims, hidden_dims) for _ in range(depth))
        self.shift = nn.Parameter(torch.zeros(self.size))  # p
        self.output = nn.Linear(hidden_dims, out_channels)
        self.reduce = None
        if context_channels is not None:
            self.reduce = nn.Linear(context_channels, hidden_dims)
            self.fc = nn.Linear(hidden_dims, hidden_dims)
            self.gates = nn.ModuleList(nn.Linear(hidden_dims, hidden_dims) for _ in range(depth))
        self._init_weights()
        if rescale_after_load:
            self.register_load_state_dict_post_hook(lambda module, keys: module.rescale())

    @torch.no_grad()
    def _init_weights(self) -> None:
        for i, layer in enumerate(self.filters):
            spread = torch.full(layer.weight.shape, 6 / (i + 1), device="cpu")
            spread = torch.distributions.Gamma(spread, torch.ones_like(spread)).sample()
            layer.weight.mul_(2 * pi * self.frequency * spread.to(layer.weight))
            nn.init.zeros_(layer.bias)
        for layer in (*self.linears, *(() if self.reduce is None else self.gates)):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
            nn.init.ones_(layer.bias)
        nn.init.kaiming_uniform_(self.output.weight, nonlinearity="linear")
        nn.init.zeros_(self.output.bias)
        self.rescale()

    @torch.no_grad()
    def rescale(self) -> None:
        """Divide the weights of the last layer by the root of the number of places."""
        self.output.weight.mul_(prod(self.size) ** -0.5)

    def coordinates(self) -> Tensor:
        """Of the places, row by row: (places, axes). A side of 1 has -1."""
        like = self.shift
        axes = [torch.linspace(-1, 1, side, dtype=like.dtype, device=like.device) for side in self.size]
        return torch.cartesian_prod(*axes).view(-1, len(axes))

    def forward(self, x: Tensor | None = None) -> Tensor:
        """The kernel (1, out_channels, *size); with a context (B, C, H, W), (B, out_channels, *size)."""
        like = self.shift
        with torch.autocast(like.device.type, enabled=False):
            places = self.coordinates()
            context = None if self.reduce is None else self._read_context(x.to(like.dtype))
            shift = self.shift.flatten()[:, None]
            h = self.filters[0](places).sin()[None]  # (1 or B, places, hidden_dims)
            for i, (layer, linear) in enumerate(zip(self.filters[1:], self.linears, strict=True)):
                h = layer(places).sin() * linear(h) + shift
                if context is not None:
                    h = h.detach() + 0.1 * F.normalize(h, dim=1)
                    h = h * self.gates[i](context)
            return self.output(h).mT.unflatten(2, self.size)

    def _read_context(self, x: Tensor) -> Tensor:
        means = F.adaptive_avg_pool2d(x, self.size).flatten(2).mT  # (B, places, C)
        if self.batch_context:
            means = means.mean(0, keepdim=True)
        return F.gelu(self.fc(self.reduce(means)))


def tile_channels(x: Tensor, channels: int) -> Tensor:
    """(B, c, H, W) repeated along the channels: (B, channels, H, W)."""
    return x.repeat(1, channels // x.shape[1], 1, 1)


# ------------------------------------------------------------------------------------------- fast networks


class BatchStandardization(nn.BatchNorm2d):
    """Batch norm without learned factors.

    Args:
        channels: of the maps.
        batch_statistics: of the batch also at evaluation, as published; running ones otherwise.
    """

    def __init__(self, channels: int, batch_statistics: bool = False):
        super().__init__(channels, EPS, affine=False, track_running_stats=not batch_statistics)


def standardize(x: Tensor) -> Tensor:
    """Maps (B, C, H, W) less their means, divided by their deviations."""
    return F.instance_norm(x, eps=EPS)


class GroupStandardization(nn.Module):
    """Groups of channels standardised over the batch and over each map in turn: (B, C, H, W) to the same.

    Args:
        channels: C.
        groups: of neighbouring channels; divides C.
        batch_statistics: see :class:`BatchStandardization`.
    """

    def __init__(self, channels: int, groups: int = 12, batch_statistics: bool = False):
        super().__init__()
        if groups < 1 or channels % groups:
            raise ValueError(f"channels must be a multiple of {groups} groups, found {channels}")
        self.groups = groups
        self.norm = BatchStandardization((groups + 1) // 2 * (channels // groups), batch_statistics)

    def forward(self, x: Tensor) -> Tensor:
        groups = list(x.unflatten(1, (self.groups, -1)).unbind(1))  # each (B, C / groups, H, W)
        width = groups[0].shape[1]
        groups[::2] = self.norm(torch.cat(groups[::2], 1)).split(width, 1)
        if self.groups > 1:
            groups[1::2] = standardize(torch.cat(groups[1::2], 1)).split(width, 1)
        return torch.cat(groups, 1)


class RecursiveGatedUnit(nn.Module):
    """Gated products of 1x1 convolutions: (B, C, size, size) to the same.

    Args:
        channels: C.
        size: side of the map, at each pixel of which a learned number is added.
    """

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.key, self.value, self.query, self.output = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        self.shift = nn.Parameter(torch.zeros(size, size))

    def forward(self, x: Tensor) -> Tensor:
        query = F.gelu(standardize(self.key(x) * self.query(self.value(x)))) + self.shift
        return self.output(query)


class LocalConv(nn.Module):
    """GELU of the batch norm of a 1x1 convolution of a depthwise one: (B, C, H, W) to the same.

    Args:
        channels: C.
        batch_statistics: see :class:`BatchStandardization`.
    """

    def __init__(self, channels: int, batch_statistics: bool = False):
        super().__init__()
        self.mixer = nn.Conv2d(channels, channels, 1)
        self.norm = BatchStandardization(channels, batch_statistics)
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, kernels: Tensor) -> Tensor:
        """With kernels (B, C, K, K), or (1, C, K, K) for all."""
        if len(kernels) == len(x):
            y = dynamic_depthwise_conv(x.permute(0, 2, 3, 1), kernels.to(x.dtype)).permute(0, 3, 1, 2)
        else:
            y = F.conv2d(x, kernels.to(x.dtype).transpose(0, 1), padding="same", groups=x.shape[1])
        return F.gelu(self.norm(self.mixer(y))) + self.shift


def global_product(x: Tensor, kernel: Tensor, partner: Tensor) -> Tensor:
    """(x * kernel) @ partner, channel by channel: of maps (B, C, H, H) and a kernel (1, C, H, H)."""
    return (x * kernel) @ partner


def channel_score(x: Tensor, kernel: Tensor) -> Tensor:
    """Squared mean of each map of (B, C, H, W), weighed by a kernel (1, 1, C): (B, C, 1, 1)."""
    means = x.mean((2, 3))
    return (means * kernel[0] * means)[:, :, None, None]


class ChannelInteraction(nn.Module):
    """Gates of channels from their own means: (B, C, H, W) to the same.

    Args:
        channels: C.
        hidden_dims: of the slow network.
        depth: of the same.
        **slow: further options of :class:`HyperNetwork`.
    """

    def __init__(self, channels: int, hidden_dims: int, depth: int = 2, **slow):
        super().__init__()
        self.kernel = HyperNetwork(1, hidden_dims, depth, (channels,), **slow)

    def forward(self, x: Tensor) -> Tensor:
        return x * channel_score(x, self.kernel()).sigmoid().to(x.dtype)


class HyperInteraction(nn.Module):
    """Maps gated by the channels and pixels of others: (B, C, H, W) to the same.

    Args:
        channels: C.
        size: H and W.
        hidden_dims: of the slow networks of channels and of pixels.
        depth: of both.
        **slow: further options of :class:`HyperNetwork`.
    """

    def __init__(self, channels: int, size: int, hidden_dims: tuple[int, int], depth: int = 2, **slow):
        super().__init__()
        self.channel_kernel = HyperNetwork(1, hidden_dims[0], depth, (channels,), **slow)
        self.spatial_kernel = HyperNetwork(1, hidden_dims[1], depth, (size, size), **slow)

    def forward(self, others: Tensor, x: Tensor) -> Tensor:
        means = others.mean(1, keepdim=True)
        of_pixels = means * self.spatial_kernel() * means
        return x * (of_pixels * channel_score(others, self.channel_kernel())).sigmoid().to(x.dtype)


class SlowFastBlock(nn.Module):
    """Global and local products with kernels of slow networks, ten or more maps beside each other, mixed.

    Maps (B, C, H, H) to (B, ratio * C, H, H), H fixed, and the global kernel (1, C, H, H).

    Args:
        channels: C.
        spec: the variant, see :attr:`Terminator.archs`.
        index: of the block.
        earlier: how many maps of earlier blocks it is given.
        drop_rate: of channels of the result.
        quirks: batch statistics and kernels of batches, as published.
        **slow: further options of :class:`HyperNetwork`.
    """

    def __init__(
        self,
        channels: int,
        spec: Mapping[str, Any],
        index: int,
        earlier: int,
        drop_rate: float,
        quirks: bool,
        **slow,
    ):
        super().__init__()
        side, out_channels = spec["img_size"], channels * spec["ratios"][index]
        dims, depth = spec["local_dims"], spec["depth"]
        sizes = [(size, size) for size in spec["local_kernels"]]
        self.global_kernel = HyperNetwork(
            channels, spec["global_dims"], spec["global_depths"][index], (side, side), **slow
        )
        self.local_kernels = nn.ModuleList(
            HyperNetwork(channels, dims, depth, size, channels, quirks, **slow) for size in sizes
        )
        self.local_convs = nn.ModuleList(LocalConv(channels, quirks) for _ in sizes)
        self.rgu_product = RecursiveGatedUnit(channels, side)
        self.rgu = RecursiveGatedUnit(channels, side)
        self.mixer = nn.Conv2d(channels, channels, 1)
        self.channel_interaction = ChannelInteraction(channels, spec["channel_dims"], depth, **slow)
        self.interaction = HyperInteraction(channels, side, spec["interaction_dims"], depth, **slow)
        self.bottleneck = nn.Conv2d((10 + earlier) * channels, out_channels, 1)
        # 12 as published for colours; so many do not divide the widths that follow from other images
        self.norm = GroupStandardization(out_channels, gcd(12, out_channels), batch_statistics=quirks)
        self.shift = nn.Parameter(torch.zeros(1))
        self.drop = nn.Dropout2d(drop_rate)

    def forward(self, x: Tensor, *earlier: Tensor) -> tuple[Tensor, Tensor]:
        kernel = self.global_kernel()
        z = x * kernel.to(x.dtype)
        gated = standardize(self.rgu_product(z) + self.rgu(x))
        mixed = standardize(self.mixer(x))
        scored = standardize(self.channel_interaction(x))
        out = z @ gated
        # of which maps the local kernels are made, and to which they are applied
        pairs = ((x, scored), (scored, x), (mixed, x), (x, mixed))
        local = [
            conv(y, slow(context))
            for (context, y), slow, conv in zip(pairs, self.local_kernels, self.local_convs, strict=True)
        ]
        before = [tile_channels(y, x.shape[1]) for y in earlier]
        maps = [
            *(out, local[1], *before[:1], gated, z @ mixed, local[0], out.sigmoid() * out),
            *(local[2], z @ scored, local[3], *before[1:], self.interaction(out, x)),
        ]
        y = F.gelu(self.norm(self.bottleneck(torch.cat(maps, 1)))) + self.shift
        return self.drop(y), kernel


# ------------------------------------------------------------------------------------ the whole network


def slow_loss(kernels: Sequence[Tensor]) -> Tensor:
    """How far the global kernels of later blocks are from those of earlier ones: a scalar.

    The sum over all pairs of blocks of the mean squared difference, the earlier kernel being repeated along
    the channels.

    Args:
        kernels: (1, C_i, H, H) of each block, C_i a multiple of the one before.
    """
    total = kernels[0].new_zeros(())
    for i, kernel in enumerate(kernels):
        for earlier in kernels[:i]:
            total = total + F.mse_loss(tile_channels(earlier, kernel.shape[1]), kernel)
    return total


class TerminatorHead(PooledLinear):
    """Mean over positions, Linear: (B, C, H, W) to (B, num_classes).

    In training it hands on the two losses that the backbone gives with the map: (logits, the loss of the
    slow networks, the sum of norms).
    """

    norm_weight = 5e-5

    def forward(self, features: Any, pre_logits: bool = False) -> Any:
        x, *losses = features if isinstance(features, tuple) else (features,)
        y = super().forward(x, pre_logits)
        return (y, *losses) if losses and not pre_logits else y

    def loss(self, outputs: Any, targets: Tensor) -> dict[str, Tensor]:
        """Of what :meth:`forward` returns in training, and targets (B, num_classes)."""
        logits, slow, norms = outputs
        loss = F.cross_entropy(logits.float(), targets)
        return {"loss": loss, "loss_slow": slow, "loss_norms": self.norm_weight * norms}


@register_backbone("terminator")
class Terminator(BaseBackbone):
    """Five slow-fast blocks, all at stride 1; the last ones see the maps of two or three before them.

    Images have one size, that of the variant, and are square: rows are multiplied by columns, and a number is
    learned for each pixel.

    In training :meth:`forward_features` returns the map, :func:`slow_loss`, and the sum of norms of
    :meth:`sum_norms`, which the head's ``loss`` adds to the cross-entropy.

    Args:
        arch: a published variant, or a dict as those in ``archs``: each block has ``ratios`` times the
            channels of the one before, its slow networks ``..._dims`` and ``..._depths``.
        drop_rate: of channels of all blocks but the first. Published: 0.05.
        reference_quirks: as published, local kernels are made of the mean of a batch, and statistics of the
            batch standardise at evaluation, too: a prediction depends on the samples beside it. The default
            makes kernels of each sample, and evaluates with running statistics. Published weights have none,
            and are loaded with the quirks.
        rescale_after_load: as published, see :class:`HyperNetwork`; it harms trained weights.
        **kwargs: see :class:`~dense.base.BaseBackbone`. There is no stem that could be frozen.
    """

    paper = (
        'Zhang, "HyperZ.Z.W Operator Connects Slow-Fast Networks for Full Context Interaction", 2024, '
        "arXiv 2401.17948"
    )
    code = "hyperevolnet/Terminator"
    licence = "none"
    archs = {
        "cifar": {
            "img_size": 32,
            "ratios": (4, 3, 2, 2, 2),
            "depth": 2,
            "global_dims": 64,
            "global_depths": (3, 2, 2, 2, 2),
            "local_dims": 32,
            "local_kernels": (3, 9, 5, 7),
            "channel_dims": 32,
            "interaction_dims": (16, 64),
        }
    }
    num_parameters = {"cifar": 1_622_965}
    published = {"cifar": {"CIFAR-10 top-1, %": 95.3, "CIFAR-100 top-1, %": 75.7}}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "cifar",
        *,
        drop_rate: float = 0.0,
        reference_quirks: bool = False,
        rescale_after_load: bool = False,
        **kwargs,
    ):
        super().__init__(arch, lambda spec: len(spec["ratios"]), **kwargs)
        spec = self.spec
        if len(spec["local_kernels"]) != 4 or not all(size % 2 for size in spec["local_kernels"]):
            raise ValueError(f"local_kernels must be four odd sides, found {spec['local_kernels']}")
        channels = [self.in_channels]
        for ratio in spec["ratios"]:
            channels.append(channels[-1] * ratio)
        self.blocks = nn.ModuleList(
            SlowFastBlock(
                channels[i],
                spec,
                i,
                len(_earlier(i)),
                drop_rate if i else 0.0,
                reference_quirks,
                rescale_after_load=rescale_after_load,
            )
            for i in range(self.out_indices[-1] + 1)
        )
        self.out_channels = tuple(channels[i + 1] for i in self.out_indices)
        self.strides = (1,) * len(self.out_indices)
        self.num_features = self.out_channels[-1]
        self.train()

    def iterate_blocks(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The map after each block, (B, C_i, H, H), and its global kernel (1, C_{i-1}, H, H)."""
        self._check_images(x)
        maps = []
        for i, block in enumerate(self.blocks):
            x, kernel = self._run(block, x, *(maps[j] for j in _earlier(i)))
            maps.append(x)
            yield x, kernel

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(y for i, (y, _) in enumerate(self.iterate_blocks(x)) if i in self.out_indices)

    def forward_features(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """The last map, (B, num_features, H, H); in training also two scalars, see the class."""
        maps, kernels = zip(*self.iterate_blocks(x), strict=True)
        return (maps[-1], slow_loss(kernels), self.sum_norms()) if self.training else maps[-1]

    def sum_norms(self) -> Tensor:
        """The L2 norms of all parameters of the fast network but its gated units, and a millionth of those of
        the weights of slow networks that make kernels of two axes.
        """
        slow = [part for part in self.modules() if isinstance(part, HyperNetwork) and len(part.size) == 2]
        weights = [p for part in slow for p in part.parameters() if p.ndim == 2 and p is not part.shift]
        fast = []
        for block in self.blocks:
            parts = (block.mixer, block.bottleneck, *block.local_convs)
            fast += [p for part in parts for p in part.parameters()]
        return sum(p.norm() for p in fast) + 1e-6 * sum(p.norm() for p in weights)

    def _check_images(self, x: Tensor) -> None:
        super()._check_images(x)
        side = self.spec["img_size"]
        if x.shape[2:] != (side, side):
            raise ValueError(
                f"images must be {side} x {side}, the img_size of the arch, found {x.shape[2]} x {x.shape[3]}"
            )

    def _frozen_modules(self) -> Sequence[nn.Module]:
        return self.blocks[: max(0, self.frozen_stages)]

    # ----------------------------------------------------------------------------- classifiers and weights

    def make_head(self, num_classes: int) -> TerminatorHead:
        return TerminatorHead(self.num_features, num_classes, init=None)

    @classmethod
    def classifier_options(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        return {"out_indices": (len(cls.find_arch(arch)["ratios"]) - 1,)}

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        arch = {**cls.archs["cifar"], "img_size": 12, "ratios": (4, 1, 2, 1, 1), "global_dims": 16}
        narrow = {"local_dims": 8, "channel_dims": 8, "interaction_dims": (8, 16)}
        return cls.create({**arch, **narrow}, **options)

    def example_inputs(self, batch: int = 2, size: tuple[int, int] = (224, 224)) -> tuple[Tensor, ...]:
        side = self.spec["img_size"]  # whatever is asked for
        return super().example_inputs(batch, (side, side))

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        running = any(key.endswith(".running_mean") for key in state_dict)
        return cls.drop_defaults(reference_quirks=not running)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """A variant with the size, the blocks and the widths that converted weights have."""
        shapes = {key.removeprefix("backbone."): value.shape for key, value in state_dict.items()}
        try:
            return read_arch(shapes)
        except (KeyError, IndexError):  # parts are missing, of whatever variant
            return dict(spec)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fast, block = r"blocks\.(\d+)\.fast_multi_branch\.", r"backbone.blocks.\1."
        slow = {
            r"slow_net_g": "global_kernel",
            **{rf"slow_net_l{i + 1}": f"local_kernels.{i}" for i in range(4)},
            r"channel_mixer_hci\.slow_net_gc": "channel_interaction.kernel",
            r"hyper_interact\.slow_net_gc": "interaction.channel_kernel",
            r"hyper_interact\.slow_net_gs": "interaction.spatial_kernel",
        }
        units = {"Fast_Kernel_rgu": "rgu", "Fast_Kernel_rgu_2": "rgu_product"}
        rules = [(r".*\.train_length", None)]
        for old, new in slow.items():
            start = rf"{fast}{old}\.Kernel\."
            rules += [
                (rf"{start}bias_pk?", f"{block}{new}.shift"),
                (rf"{start}output_linear\.(.*)", rf"{block}{new}.output.\2"),
                (rf"{start}filters\.(\d+)\.linear\.(.*)", rf"{block}{new}.filters.\2.\3"),
                (rf"{start}linears\.(.*)", rf"{block}{new}.linears.\2"),
                (rf"{start}fast_reduce\.(.*)", rf"{block}{new}.reduce.\2"),
                (rf"{start}fast_fc1\.(.*)", rf"{block}{new}.fc.\2"),
                (rf"{start}fast_linears_x\.(.*)", rf"{block}{new}.gates.\2"),
            ]
        for old, new in units.items():
            rules.append((rf"{fast}{old}\.(?:fast_)?bias_p", f"{block}{new}.shift"))
            for layer in ("key", "value", "query", "output"):
                letter = "y" if layer == "output" else layer[0]
                rules.append((rf"{fast}{old}\.fast_linear_{letter}\.(.*)", rf"{block}{new}.{layer}.\2"))
        for i in range(4):
            conv, ours = rf"{fast}local_interact_conv_{i + 1}\.channel_mixer", f"{block}local_convs.{i}."
            rules += [(rf"{conv}\.(.*)", rf"{ours}mixer.\2"), (rf"{fast}bias{i + 1}", f"{ours}shift")]
        renamed = rename_keys(
            cls.find_trunk(state_dict),
            [
                *rules,
                (rf"{fast}channel_mixer_mlp\.(.*)", rf"{block}mixer.\2"),
                (rf"{fast}bottleneck_layer\.(.*)", rf"{block}bottleneck.\2"),
                (r"blocks\.(\d+)\.bias", f"{block}shift"),
                (r"out_layer\.(.*)", r"head.fc.\1"),
            ],
        )
        return {key: _reshape(key, value) for key, value in renamed.items()}


def _earlier(index: int) -> tuple[int, ...]:
    """The blocks whose maps the one of an index is given besides that of the one before it."""
    return () if index < 2 else (index - 2,) if index < 4 else (index - 2, index - 3)


def _reshape(key: str, value: Tensor) -> Tensor:
    """Published tables of places have leading axes of 1; layers of slow networks are 1x1 convolutions."""
    if key.endswith(".shift") and value.ndim > 1:
        return value[0, 0]
    slow = any(f".{part}." in key for part in ("filters", "linears", "reduce", "fc", "gates"))
    slow |= "kernel" in key and ".output." in key
    return value.flatten(1) if slow and value.ndim > 2 else value


def read_arch(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The variant of a backbone's weights by the shapes of its state dict."""
    count = len({key.split(".")[1] for key in shapes if key.startswith("blocks.")})
    blocks = [f"blocks.{i}." for i in range(count)]
    first = blocks[0]
    convs = [shapes[f"{block}mixer.weight"][0] for block in blocks]
    outs = [shapes[f"{block}bottleneck.weight"][0] for block in blocks]

    def width(slow: str) -> int:
        return shapes[f"{first}{slow}.filters.0.bias"][0]

    def depth(start: str) -> int:
        return sum(key.startswith(f"{start}.linears.") and key.endswith("bias") for key in shapes)

    return {
        "img_size": shapes[f"{first}global_kernel.shift"][0],
        "ratios": tuple(out // channels for out, channels in zip(outs, convs, strict=True)),
        "depth": depth(f"{first}interaction.spatial_kernel"),
        "global_dims": width("global_kernel"),
        "global_depths": tuple(depth(f"{block}global_kernel") for block in blocks),
        "local_dims": width("local_kernels.0"),
        "local_kernels": tuple(shapes[f"{first}local_kernels.{i}.shift"][0] for i in range(4)),
        "channel_dims": width("channel_interaction.kernel"),
        "interaction_dims": (width("interaction.channel_kernel"), width("interaction.spatial_kernel")),
    }
