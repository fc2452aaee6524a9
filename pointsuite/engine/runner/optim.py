"""Mixed precision on every device."""

import torch
from mmengine import optim
from torch.amp import GradScaler

from pointsuite.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(optim.AmpOptimWrapper):
    """MMEngine's, with bfloat16 as the default, which works on the CPU, too.

    Bfloat16 has the range of float32, so that the loss needs no scale and has none; weights, gradients and
    the optimiser's state stay in float32. See MMEngine for float16, which needs a GPU.

    Args:
        loss_scale, use_fsdp: for float16.
        dtype: "bfloat16", "float16" or the torch dtype.
        **kwargs: of ``OptimWrapper`` (optimizer, accumulative_counts, clip_grad).
    """

    def __init__(
        self,
        loss_scale: str | float | dict = "dynamic",
        dtype: str | torch.dtype = "bfloat16",
        use_fsdp: bool = False,
        **kwargs,
    ):
        if dtype not in ("bfloat16", torch.bfloat16):
            super().__init__(loss_scale, dtype, use_fsdp, **kwargs)
            return
        optim.OptimWrapper.__init__(self, **kwargs)  # not the parent's, which wants a GPU
        self.cast_dtype = torch.bfloat16
        self.loss_scaler, self._scale_update_param = GradScaler(enabled=False), None
