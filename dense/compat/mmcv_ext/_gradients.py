"""Gradients of operators that are plain differentiable PyTorch: run them again, and differentiate."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def fill_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad_output: Tensor, grads: Sequence[Tensor]
) -> None:
    """Put the gradient of ``function(*inputs)`` in each of ``grads``."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in inputs]
        found = torch.autograd.grad(function(*inputs), inputs, grad_output)
    for grad, value in zip(grads, found, strict=True):
        grad.copy_(value)
