"""Weighted convolution: kernels are multiplied by a density, a function of the distance from their centre.

Cammarasana, Patane, "Optimal Density Functions for Weighted Convolution in Learning Models", arXiv
2505.24527, and "Optimal Weighted Convolution for Classification and Denosing", arXiv 2505.24558, both 2025.
Published code: cammarasana123/weightedConvolution2.0, GPL-3.0; this is written from the formulas alone.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..registry import MODELS

# by kernel size, outermost tap first; of those given as examples
DENSITIES: dict[int, tuple[float, ...]] = {1: (), 3: (0.7,), 5: (0.2, 0.8), 7: (0.25, 0.15, 0.55)}
INITIAL_DENSITIES = {**DENSITIES, 7: (0.27, 0.17, 0.54)}  # where training goes on


class WeightedConv:
    r"""What :class:`WeightedConv1d`, 2d and 3d add to ``nn.Conv1d``, 2d and 3d.

    .. math:: y = \mathrm{conv}(x, W \odot \Phi) + b, \quad \Phi_{ij} = a_i a_j, \quad
        a = (d_1, \dots, d_n, 1, d_n, \dots, d_1)

    with :math:`d_1` at the rim of the kernel. Kernels are square and odd, n = (kernel size - 1) / 2; all else
    is as in the plain layer: stride, padding and its mode, dilation, groups, bias.

    The density is the buffer ``density`` (n,), or a parameter of that name where it is trainable, so that a
    state dict carries it. Any sign and size is allowed. The weights start as published, normal of standard
    deviation sqrt(2 / (out_channels * kernel_size ** dimensions)), biases at 0.

    W * Phi costs one product of the weight's size for each forward. Evaluation without gradients keeps it
    until weight or density change, or :meth:`train` or :meth:`eval` is called (the change that neither shows
    is a write through ``.data``); :func:`fold_density` spares it for good.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: of the plain layer.
        density: d, outermost first; by default that of :data:`DENSITIES` for the kernel size.
        trainable: learn the density, from :data:`INITIAL_DENSITIES` by default.

    Shapes: as the plain layer.

    Raises:
        ValueError: a kernel that is not square and odd, or a density of the wrong length.
    """

    _kept: tuple[Any, Tensor] | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *args,
        density: Sequence[float] | None = None,
        trainable: bool = False,
        **kwargs,
    ):
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        self.set_density(density, trainable)

    @classmethod
    def published(cls, in_channels: int, out_channels: int, kernel_size: int, **kwargs):
        """A layer with the defaults of the published constructor: padding 1 for any kernel, no bias."""
        return cls(in_channels, out_channels, kernel_size, **{"padding": 1, "bias": False, **kwargs})

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def set_density(self, density: Sequence[float] | None, trainable: bool = False) -> None:
        """Give the layer another density (see the class); the weights stay as they are."""
        density = _check_density(self.kernel_size, density, trainable)
        values = torch.tensor(density, dtype=self.weight.dtype, device=self.weight.device)
        self._buffers.pop("density", None), self._parameters.pop("density", None)
        if trainable and density:  # a kernel of 1 has nothing to learn
            self.density = nn.Parameter(values, requires_grad=self.weight.requires_grad)
        else:
            self.register_buffer("density", values)

    def phi(self) -> Tensor:
        """The factor of each tap: (k,), (k, k) or (k, k, k)."""
        a = torch.cat((self.density, self.density.new_ones(1), self.density.flip(0)))
        phi = a
        for _ in self.kernel_size[1:]:
            phi = phi[..., None] * a
        return phi

    def effective_weight(self) -> Tensor:
        """W * Phi: (out_channels, in_channels / groups, k, ...)."""
        weight, density = self.weight, self.density
        if (
            self.training
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or type(weight) is not nn.Parameter  # as functional_call has it
            or weight.is_inference()
            or density.is_inference()  # these have no version
        ):
            return weight * self.phi()
        now = [(t.data_ptr(), t._version, t.dtype, t.device) for t in (weight, density)]
        if self._kept is None or self._kept[0] != now:
            self._kept = now, weight * self.phi()
        return self._kept[1]

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.effective_weight(), self.bias)

    def train(self, mode: bool = True):
        self._kept = None
        return super().train(mode)

    def _apply(self, *args, **kwargs):
        self._kept = None
        return super()._apply(*args, **kwargs)

    def extra_repr(self) -> str:
        values = "trained" if self.density.requires_grad else [round(d, 4) for d in self.density.tolist()]
        return f"{super().extra_repr()}, density={values}"


def _check_density(
    kernel_size: tuple[int, ...], density: Sequence[float] | None, trainable: bool
) -> tuple[float, ...]:
    size = kernel_size[0]
    if size % 2 == 0 or set(kernel_size) != {size}:
        raise ValueError(f"kernel_size must be odd and the same on all axes, found {kernel_size}")
    if density is None:
        known = INITIAL_DENSITIES if trainable else DENSITIES
        if size not in known:
            raise ValueError(f"there is no usual density for kernel_size {size}: give {size // 2} numbers")
        density = known[size]
    values = tuple(map(float, density))
    if len(values) != size // 2 or not all(map(isfinite, values)):
        raise ValueError(
            f"the density for kernel_size {size} must be {size // 2} finite numbers, found {values}"
        )
    return values


@MODELS.register_module()
class WeightedConv1d(WeightedConv, nn.Conv1d):
    __doc__ = WeightedConv.__doc__


@MODELS.register_module()
class WeightedConv2d(WeightedConv, nn.Conv2d):
    __doc__ = WeightedConv.__doc__


@MODELS.register_module()
class WeightedConv3d(WeightedConv, nn.Conv3d):
    __doc__ = WeightedConv.__doc__


WEIGHTED = {nn.Conv1d: WeightedConv1d, nn.Conv2d: WeightedConv2d, nn.Conv3d: WeightedConv3d}
PLAIN = {weighted: plain for plain, weighted in WEIGHTED.items()}


def weight_convolutions(
    module: nn.Module,
    density: Mapping[int, Sequence[float]] | None = None,
    *,
    trainable: bool = False,
    preserve_outputs: bool = False,
) -> nn.Module:
    """Make the plain convolutions of a network weighted ones, in place; returns the network.

    Layers and their weights stay the objects that they are, with their strides, paddings, groups, dilations
    and biases, so optimisers and hooks that know them go on. Only ``nn.Conv1d``, 2d and 3d themselves are
    taken, not other classes derived from them, and only square kernels of the odd sizes in ``density``.
    A host must call its convolutions; one that reads their weights takes :func:`effective_weight`.

    Args:
        density: by kernel size, outermost tap first, as ``{3: [0.7], 5: [0.2, 0.8]}`` (``"3"`` is 3, too); by
            default :data:`DENSITIES`, or :data:`INITIAL_DENSITIES` where trainable.
        trainable: learn a density in each layer.
        preserve_outputs: divide the weights by the density, so that a trained network computes what it did.

    Raises:
        ValueError: a size that is not odd, a density of the wrong length, one with a 0 where outputs shall be
            preserved, or no convolution of these sizes at all. The network is as it was, then.
    """
    if density is None:
        density = {size: d for size, d in (INITIAL_DENSITIES if trainable else DENSITIES).items() if d}
    densities = {
        int(size): _check_density((int(size),), values, trainable) for size, values in density.items()
    }
    if preserve_outputs and any(0 in values for values in densities.values()):
        raise ValueError(f"outputs cannot be preserved by a density with a 0, found {densities}")
    layers = [
        layer
        for layer in module.modules()
        if type(layer) in WEIGHTED and len(set(layer.kernel_size)) == 1 and layer.kernel_size[0] in densities
    ]
    if not layers:
        raise ValueError(f"{type(module).__name__} has no plain convolution of the sizes {[*densities]}")
    for layer in layers:
        layer.__class__ = WEIGHTED[type(layer)]
        layer.set_density(densities[layer.kernel_size[0]], trainable)
    if preserve_outputs:
        with torch.no_grad():
            for layer in layers:
                layer.weight /= layer.phi()
    return module


def fold_density(module: nn.Module) -> nn.Module:
    """Make the weighted convolutions of a network plain ones with weights W * Phi, in place; returns it."""
    for layer in module.modules():
        if type(layer) in PLAIN:
            weight = layer.effective_weight().detach()
            layer._buffers.pop("density", None), layer._parameters.pop("density", None)
            layer.__dict__.pop("_kept", None)
            layer.__class__ = PLAIN[type(layer)]
            layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    return module


def effective_weight(layer: _ConvNd) -> Tensor:
    """The kernels that a convolution applies, of a weighted one W * Phi."""
    return layer.effective_weight() if isinstance(layer, WeightedConv) else layer.weight


def density_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The trainable densities of a network, found by the class of their layer, not by a name."""
    layers = (layer for layer in module.modules() if isinstance(layer, WeightedConv))
    return [layer.density for layer in layers if isinstance(layer.density, nn.Parameter)]


def convert_density(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The density under its published names as ours: ``den`` or the start of ``alfa``; ``Phi`` goes."""
    converted = {}
    for key, value in state_dict.items():
        prefix, _, name = key.rpartition(".")
        prefix += "." if prefix else ""
        if name == "den":
            converted[f"{prefix}density"] = value
        elif name == "alfa":
            converted[f"{prefix}density"] = value[: len(value) // 2].clone()
        elif name != "Phi":
            converted[key] = value
    return converted


def guess_density(state_dict: Mapping[str, Tensor]) -> dict[int, tuple[float, ...]] | None:
    """Densities by kernel size, to build what converted weights are of; None of plain convolutions.

    They are the usual ones: the layers' own come with the weights, which do not tell whether they were
    learnt.
    """
    weights = (f"{key.removesuffix('density')}weight" for key in state_dict if key.endswith(".density"))
    sizes = {state_dict[key].shape[-1] for key in weights}
    return {size: DENSITIES[size] for size in sorted(sizes)} or None


@MODELS.register_module("WeightedConvolutions")
def build_weighted(module: dict | nn.Module, **kwargs) -> nn.Module:
    """:func:`weight_convolutions` of any network in a config.

    As ``dict(type="dense.WeightedConvolutions", module=dict(type="mmdet.ResNet", ...), density={...})``.
    """
    built = MODELS.build(module) if isinstance(module, Mapping) else module
    return weight_convolutions(built, **kwargs)
