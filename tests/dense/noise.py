"""Weights with which a test sees every part of a module."""

from torch import nn


def noisy(module: nn.Module) -> nn.Module:
    """Weights, and statistics of norms, so large that every one counts, in float64, evaluating."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
    for name, value in module.named_buffers():
        if name.endswith("running_mean"):
            value.normal_()
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    return module.double().eval()
