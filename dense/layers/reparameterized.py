"""Branches of convolutions that are one convolution at evaluation.

Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, arXiv 2101.03697, has the idea; each
system its branches.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ..ops.linear import ACTIVATIONS
from .conv_norm import ConvNorm, MergedConv, convolve


class ReparameterizedConv(nn.Module):
    """Linear branches of one map, summed: (B, in, H, W) to (B, out, H', W'). A subclass makes them; what is
    random in training, as the depth of a branch, may be among them.

    At evaluation of all batch norms within they are one convolution with the kernel that :meth:`merge` makes
    of the parameters of the moment, at every call: nothing can get stale, gradients pass, and the state dict
    keeps the branches. :func:`switch_to_deploy` keeps that convolution alone.

    Called with an ``activation``, as of :func:`dense.ops.linear`, it goes on with it.

    Args:
        stride, padding, groups: of the convolution that it becomes.
    """

    def __init__(self, stride: int = 1, padding: int = 0, groups: int = 1):
        super().__init__()
        self.stride = stride
        self.padding = padding
        self.groups = groups

    def forward_branches(self, x: Tensor) -> Tensor:
        """The sum of the branches, as in training."""
        raise NotImplementedError

    def merge(self) -> tuple[Tensor, Tensor]:
        """Weight (out, in / groups, k, k) and bias (out,) of the one convolution."""
        raise NotImplementedError

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        if not self.merges:
            return ACTIVATIONS[activation](self.forward_branches(x))
        return convolve(x, *self.merge(), self.stride, self.padding, self.groups, activation)

    @property
    def merges(self) -> bool:
        """Whether it is one convolution now."""
        return not self.training and can_merge(self, training=False)

    def to_conv(self) -> MergedConv:
        """The one convolution as a layer of its own."""
        return MergedConv.of(*self.merge(), self.stride, self.padding, self.groups)


MERGEABLE = (ReparameterizedConv, ConvNorm)


def switch_to_deploy(network: nn.Module) -> nn.Module:
    """Make each :class:`ReparameterizedConv` and :class:`ConvNorm` one convolution with a bias, in place.

    Evaluation gives the same numbers up to rounding. Branches and norms are gone for good, so this is for
    networks that are trained; those whose norms a run has exchanged for others than batch norms stay.

    Returns:
        the network; the one convolution, where the network itself is such a layer.
    """
    if isinstance(network, MERGEABLE):
        return network.to_conv() if can_merge(network) else network
    for name, child in network.named_children():
        setattr(network, name, switch_to_deploy(child))
    return network


def mergeable_layers(network: nn.Module) -> list[str]:
    """Names of the layers in a network that :func:`switch_to_deploy` replaces."""
    if isinstance(network, MERGEABLE):
        return [""] if can_merge(network) else []
    return [
        f"{name}.{inner}".rstrip(".")
        for name, child in network.named_children()
        for inner in mergeable_layers(child)
    ]


def can_merge(module: nn.Module, training: bool | None = None) -> bool:
    """Whether all norms within are batch norms with statistics, in training or not if that is asked for.

    A run may have exchanged them: SyncBatchNorm is one of these, GroupNorm is not.
    """
    norms = (m for m in module.modules() if isinstance(m, _NormBase | nn.GroupNorm | nn.LayerNorm))
    return all(
        isinstance(norm, _BatchNorm) and norm.running_var is not None and training in (None, norm.training)
        for norm in norms
    )


def pad_kernel(weight: Tensor, size: int) -> Tensor:
    """Kernels (out, in, k, k) in the middle of zeros: (out, in, size, size).

    Raises:
        ValueError: k is larger, or of other parity, so that there is no middle.
    """
    border, rest = divmod(size - weight.shape[-1], 2)
    if border < 0 or rest:
        raise ValueError(f"a kernel of {weight.shape[-1]} has no place in the middle of one of {size}")
    return F.pad(weight, (border,) * 4)


def dilate_kernel(weight: Tensor, rate: int) -> Tensor:
    """Kernels (out, in, k, k) of a dilated convolution as those of a plain one, zeros between:
    (out, in, (k - 1) * rate + 1, ...).
    """
    if rate == 1:
        return weight
    height, width = ((side - 1) * rate + 1 for side in weight.shape[2:])
    dilated = weight.new_zeros(*weight.shape[:2], height, width)
    dilated[:, :, ::rate, ::rate] = weight
    return dilated


def identity_kernel(weight: Tensor) -> Tensor:
    """The kernels that keep the input of a convolution, of the shape, dtype and device of ``weight``:
    (channels, channels / groups, k, k), k odd.
    """
    channels, width, *size = weight.shape
    if not all(side % 2 for side in size) or channels % width:
        raise ValueError(f"no identity has kernels {tuple(weight.shape)}")
    kernel = torch.zeros_like(weight)
    index = torch.arange(channels, device=weight.device)
    kernel[index, index % width, size[0] // 2, size[1] // 2] = 1
    return kernel
