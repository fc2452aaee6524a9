"""Groups of parameters with a rate, a decay or a schedule of their own."""

from mmengine.optim import CosineAnnealingLR, DefaultOptimWrapperConstructor
from mmengine.optim.scheduler import CosineRestartLR
from torch import nn

from ..layers.weighted_conv import density_parameters
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS


def density_groups(module: nn.Module, **density_options) -> list[dict]:
    """Parameter groups for an optimiser of PyTorch: all else, and the densities, which do not decay.

    Args:
        module: network with trainable densities (see :mod:`dense.layers.weighted_conv`).
        **density_options: of the densities' group, as ``lr=1e-2``; ``weight_decay`` 0 by default.

    Returns:
        Two groups, the second with the key ``density``.
    """
    densities = density_parameters(module)
    known = set(map(id, densities))
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in known]
    return [
        {"params": others},
        {"params": densities, "density": True, "weight_decay": 0.0, **density_options},
    ]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DensityConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's, with options of the optimiser that are the densities' own.

    As in ``constructor="dense.DensityConstructor", paramwise_cfg=dict(density=dict(lr=1e-2))``. Densities are
    found by the class of their layer. They do not decay unless ``weight_decay`` says so: decay pulls a kernel
    to its centre alone.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        cfg = {} if paramwise_cfg is None else paramwise_cfg
        super().__init__(
            optim_wrapper_cfg, {**cfg, "density": {"weight_decay": 0.0, **cfg.get("density", {})}}
        )

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", **kwargs) -> None:
        super().add_params(params, module, prefix, **kwargs)
        if prefix:  # within the network
            return
        densities = set(map(id, density_parameters(module)))
        for group in params:
            if id(group["params"][0]) in densities:
                group.update(self.paramwise_cfg["density"], density=True)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class NoDecayConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's, with one more key of ``paramwise_cfg``: what has some text in its name does not decay.

    With ``custom_keys`` alone the longest key decides for a parameter, so that one cannot lower the rate of a
    backbone while another one exempts its biases. As in ``constructor="dense.NoDecayConstructor",
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1)), no_decay_keys=["norm", "bias"])``.
    """

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", **kwargs) -> None:
        super().add_params(params, module, prefix, **kwargs)
        if prefix:  # within the network
            return
        names = {parameter: name for name, parameter in module.named_parameters()}
        for group in params:
            if any(key in names[group["params"][0]] for key in self.paramwise_cfg.get("no_decay_keys", [])):
                group["weight_decay"] = 0.0


class _OneKind:
    """A schedule of the densities alone, or of all else."""

    def __init__(self, optimizer, *args, densities: bool, **kwargs):
        self.densities = densities
        super().__init__(optimizer, *args, **kwargs)

    def _get_value(self) -> list[float]:
        groups = self.optimizer.param_groups
        return [
            value if group.get("density", False) == self.densities else group[self.param_name]
            for value, group in zip(super()._get_value(), groups, strict=True)
        ]


@PARAM_SCHEDULERS.register_module()
class KindCosineAnnealingLR(_OneKind, CosineAnnealingLR):
    """MMEngine's ``CosineAnnealingLR`` of the densities (``densities=True``) or of all else (False)."""


@PARAM_SCHEDULERS.register_module()
class KindCosineRestartLR(_OneKind, CosineRestartLR):
    """MMEngine's ``CosineRestartLR`` of the densities (``densities=True``) or of all else (False)."""
