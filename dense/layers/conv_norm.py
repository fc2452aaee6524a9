"""Convolution and batch norm, one convolution at evaluation."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops.convolution import conv2d
from ..ops.linear import ACTIVATIONS, linear
from .weighted_conv import effective_weight

Size = int | tuple[int, ...]


class ConvNorm(nn.Module):
    """Conv2d, BatchNorm2d: (B, in_channels, H, W) to (B, out_channels, H', W').

    A batch norm that evaluates is a fixed scale and shift of each channel, so it goes into the weights of the
    convolution: the same numbers up to rounding, and one pass over the map less. The weights are folded anew
    at every call, which costs as much as B*H'*W' of the convolution's own products are to one: nothing can
    get stale, gradients pass, and the state dict is that of two plain layers. (Hooks on ``norm`` therefore
    see training only.) Inference on a CPU takes a 1x1 convolution of a map that is channels last in memory
    for the linear layer that it is, which :func:`dense.ops.linear` has fast.

    Called with an ``activation``, as of that function, it goes on with it.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, groups, bias: of the convolution.
        norm_weight_init: initial scale of the norm; 0 switches a residual branch off at first.
        dilation: of the convolution.
        norm_eps: of the norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = False,
        norm_weight_init: float = 1.0,
        dilation: int = 1,
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups=groups, bias=bias
        )
        self.norm = nn.BatchNorm2d(out_channels, norm_eps)
        nn.init.constant_(self.norm.weight, norm_weight_init)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        conv = self.conv
        if not self.merges:
            return ACTIVATIONS[activation](self.norm(conv(x)))
        return convolve(x, *self.merge(), *_geometry(conv), activation, conv.dilation)

    @property
    def merges(self) -> bool:
        """Whether it is one convolution now: its norm evaluates, and no run has exchanged it for another kind
        (SyncBatchNorm is a batch norm, GroupNorm is not).
        """
        norm = self.norm
        return isinstance(norm, _BatchNorm) and not norm.training and norm.running_var is not None

    def merge(self) -> tuple[Tensor, Tensor]:
        """Weight (out_channels, in_channels / groups, k, k) and bias (out_channels,) of the one convolution
        that it is at evaluation.
        """
        return fold_norm(effective_weight(self.conv), self.conv.bias, self.norm)

    def to_conv(self) -> "MergedConv":
        """That convolution as a layer of its own."""
        return MergedConv.of(*self.merge(), *_geometry(self.conv), self.conv.dilation)


class ConvNormReLU(ConvNorm):
    """Convolution 3x3 that keeps the size, norm, ReLU: (B, in_channels, H, W) to (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = False):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, "relu")

    def to_conv(self) -> "MergedConv":
        conv = super().to_conv()
        conv.activation = "relu"
        return conv


class MergedConv(nn.Conv2d):
    """What a convolution and its norm, or branches of such, have become; it is called as they are.

    Attributes:
        activation: what it goes on with where a call names none.
    """

    activation: str | None = None

    @classmethod
    def of(
        cls,
        weight: Tensor,
        bias: Tensor,
        stride: Size = 1,
        padding: Size = 0,
        groups: int = 1,
        dilation: Size = 1,
    ) -> "MergedConv":
        """The layer with this weight (out, in / groups, k, k) and bias (out,)."""
        out_channels, width, *size = weight.shape
        how = {"dilation": dilation, "groups": groups, "device": "meta"}
        conv = cls(width * groups, out_channels, tuple(size), stride, padding, **how)
        conv.weight, conv.bias = (nn.Parameter(tensor.detach().clone()) for tensor in (weight, bias))
        return conv

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        activation = activation or self.activation
        return convolve(x, self.weight, self.bias, *_geometry(self), activation, self.dilation)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    groups: int = 1,
    activation: str | None = None,
    dilation: Size = 1,
) -> Tensor:
    """Convolution and activation, the linear layer that it is where that is faster (see :class:`ConvNorm`).

    Args:
        x: (B, in, H, W).
        weight: (out, in / groups, k, k).
        bias: (out,).
        stride, padding, groups: of the convolution.
        activation: see :func:`dense.ops.linear`.
        dilation: of the convolution.

    Returns:
        (B, out, H', W').
    """
    moves = weight.shape[-1] > 1 or weight.shape[-2] > 1 or groups > 1
    if not moves and stride in (1, (1, 1)) and padding in (0, (0, 0)) and _is_quick(x):
        x = linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias, activation=activation)
        return x.permute(0, 3, 1, 2)
    return conv2d(x, weight, bias, stride, padding, dilation, groups, activation=activation)


def _geometry(conv: nn.Conv2d) -> tuple[Size, Size, int]:
    return conv.stride, conv.padding, conv.groups


def _is_quick(x: Tensor) -> bool:
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return channels_last and x.device.type == "cpu" and not torch.is_grad_enabled()


def fold_norm(weight: Tensor, bias: Tensor | None, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer that equals a given one followed by ``norm`` at evaluation.

    Args:
        weight: (out, ...), of a convolution or a Linear.
        bias: (out), None for 0.
        norm: of out channels, with running statistics.
    """
    mean, own_weight, own_bias = norm.running_mean, norm.weight, norm.bias
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if own_weight is not None:
        scale = scale * own_weight
    shift = -mean if bias is None else bias - mean
    shift = shift * scale if own_bias is None else torch.addcmul(own_bias, shift, scale)
    return weight * scale.view(-1, *[1] * (weight.ndim - 1)), shift
