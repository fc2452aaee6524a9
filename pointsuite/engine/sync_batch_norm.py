"""Batch norms whose statistics are those of all processes: what ``sync_bn="torch"`` of a config switches on.

``torch.nn.SyncBatchNorm`` refuses CPU tensors, and replacing a norm by it loses the subclass and what a layer
does with the norm's statistics itself. Here a norm keeps its place, parameters and buffers and gets a class
that adds the exchange to its own, so any device, any backend and any subclass will do.
"""

from functools import cache

import torch
from mmengine.dist import is_distributed
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _AllReduce(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum over all processes, too."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _AllReduce.apply(grad)


@torch.compiler.disable  # a compiled network breaks here: the exchange runs between its parts
def _all_reduce(x: Tensor) -> Tensor:
    return _AllReduce.apply(x)


class SyncBatchNorm(_BatchNorm):
    """Mixed into a batch norm (N, C, ...): in training, mean and variance are over the rows of all processes.

    Without a process group it is the batch norm that it was.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and is_distributed()):
            return super().forward(x)
        self._check_input_dim(x)
        axes = [0, *range(2, x.ndim)]
        rows = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(rows, axes, correction=0)
        mean, variance, count = batch_moments(self, mean, variance, x.numel() // x.shape[1])
        if self.track_running_stats:
            track_moments(self, mean, variance, count)
        scale = (variance + self.eps).rsqrt()
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        shape = [-1] + [1] * (x.ndim - 2)
        return torch.addcmul(shift.view(shape), rows, scale.view(shape)).to(x.dtype)


@cache
def _sync_class(kind: type[_BatchNorm]) -> type[SyncBatchNorm]:
    return type(f"Sync{kind.__name__}", (kind, SyncBatchNorm), {"__module__": kind.__module__})


def synchronize_batch_norms(model: nn.Module) -> None:
    """Let every batch norm in `model` see the rows of all processes; its state dict stays the same."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, (SyncBatchNorm, nn.SyncBatchNorm)):
            module.__class__ = _sync_class(type(module))


class _AnyRank(SyncBatchNorm):
    """What a ``torch.nn.SyncBatchNorm`` becomes."""

    _check_input_dim = nn.SyncBatchNorm._check_input_dim


def allow_cpu(model: nn.Module) -> None:
    """Give every ``torch.nn.SyncBatchNorm`` in `model` a class that takes CPU tensors and does the same."""
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = _AnyRank


def batch_moments(
    norm: _BatchNorm, mean: Tensor, spread: Tensor, count: int
) -> tuple[Tensor, Tensor, int | Tensor]:
    """The moments that `norm` is to use: of this process's rows, as given, or of all if it is synchronised.

    For layers that compute their norm's statistics themselves.

    Args:
        mean: (C,), differentiable.
        spread: (C,) biased variances or (C, C) covariances, differentiable.
        count: rows of this process.

    Returns:
        mean, spread and count; in float32 at least if they were exchanged, the count then a scalar tensor.
    """
    if not (isinstance(norm, SyncBatchNorm) and is_distributed()):
        return mean, spread, count
    mean, spread = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (mean, spread))
    total = _all_reduce(torch.cat([count * mean, mean.new_tensor([count])]))
    common, total_count = total[:-1] / total[-1], total[-1]
    offset = mean - common
    between = offset.square() if spread.ndim == 1 else torch.outer(offset, offset)
    return common, _all_reduce((spread + between) * (count / total_count)), total_count


@torch.no_grad()
def track_moments(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: int | Tensor) -> None:
    """Move the running statistics towards those of a batch of `count` rows, as batch norms do.

    Args:
        mean, variance: (C,); the variance is the biased one.
    """
    norm.num_batches_tracked += 1
    rate = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    unbiased = variance * count / torch.as_tensor(count - 1).clamp(min=1)
    norm.running_mean.lerp_(mean.to(norm.running_mean), rate)
    norm.running_var.lerp_(unbiased.to(norm.running_var), rate)
