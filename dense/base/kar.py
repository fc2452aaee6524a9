"""Kar: optimisers that step by the signs of a gradient and of its running means."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from ..registry import OPTIMIZERS


class _Kar(Optimizer):
    def __init__(self, params: Iterable[Any], lr: float, betas: Sequence[float]):
        if lr < 0:
            raise ValueError(f"lr must not be negative, found {lr}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be at least 0 and below 1, found {tuple(betas)}")
        super().__init__(params, {"lr": lr, "betas": tuple(betas)})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what ``closure``, which computes the gradients anew, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group["lr"], group["betas"])
        return loss

    def _step(self, parameter: torch.Tensor, lr: float, betas: Sequence[float]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        if gradient.is_sparse:
            raise ValueError(f"{type(self).__name__} wants dense gradients, found a sparse one")
        if not state:
            state["means"] = [torch.zeros_like(parameter) for _ in betas]
        direction = gradient.sign()
        for mean, beta in zip(state["means"], betas, strict=True):
            direction += mean.sign()  # of the gradients before this one
            mean.lerp_(gradient, 1 - beta)
        parameter.sub_(direction, alpha=lr)


@OPTIMIZERS.register_module()
class Kar2(_Kar):
    r"""Steps of :math:`-\mathrm{lr} \, (\mathrm{sgn}\, g + \mathrm{sgn}\, m)` with a running mean m.

    Then m becomes :math:`\beta m + (1 - \beta) g`. There is no correction of the first steps, and no decay of
    weights.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        betas: (beta,).

    Source: Zhang, "HyperZ.Z.W Operator Connects Slow-Fast Networks for Full Context Interaction", 2024, arXiv
    2401.17948.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1.215e-3, betas: Sequence[float] = (0.95,)):
        super().__init__(params, lr, betas)


@OPTIMIZERS.register_module()
class Kar3(_Kar):
    """:class:`Kar2` with two running means, a fast and a slow one.

    Args:
        params, lr: of :class:`Kar2`.
        betas: of both means.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1.215e-3, betas: Sequence[float] = (0.5, 0.95)):
        super().__init__(params, lr, betas)
