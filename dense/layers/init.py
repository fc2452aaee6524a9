"""Initial weights."""

from torch import nn


def init_normal(module: nn.Module, *kinds: type[nn.Module], std: float = 0.02) -> None:
    """Normal weights (cut off at 2, as usual) and zero biases for all layers of some kinds in ``module``.

    Args:
        module: whose layers to initialise.
        *kinds: as ``nn.Linear``.
        std: standard deviation.
    """
    for layer in module.modules():
        if isinstance(layer, kinds):
            nn.init.trunc_normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_he(module: nn.Module) -> None:
    """Normal weights by the fan out (He et al.) for all 2-D convolutions in ``module``; zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
