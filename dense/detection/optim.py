"""Weight decay by the names of parameters."""

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS


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
