"""Any restoration network as an MMEngine model."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from pointsuite.engine.task_model import stack_inputs

from ..base import TaskModel
from ..registry import MODELS
from .losses import LOSSES
from .sample import RestorationSample
from .tiling import restore


@MODELS.register_module()
class StackRestoration(BaseDataPreprocessor):
    """Move a batch to the model's device and stack its images to float32 (B, C, h, w) in 0..1.

    Good images are only moved. The images of a batch must have one size.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        return {**data, "inputs": _stack(data["inputs"])}


def _stack(images: Tensor | Sequence[Tensor]) -> Tensor:
    hint = "add RandomPatch to the pipeline, or test with batch_size=1"
    images = stack_inputs(images, "images", hint)
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


@MODELS.register_module()
class ImageRestorer(TaskModel):
    """A network that maps images (B, C, h, w) in 0..1 to (B, C, scale * h, scale * w).

    Predicted samples have ``pred``.

    Args:
        network: config, as ``dict(type="HAT", arch="hat_s", scale=2)``, or module, with the attributes
            ``scale`` and ``multiple``, which divides the sides that it takes.
        loss: "l1", "mse", "charbonnier" or "psnr" (minus the mean PSNR of the images), or the config of a
            module, or a module, (prediction, good images) -> number.
        tile: side of the tiles in which images are predicted, in their pixels; None for whole images.
        overlap: pixels that a tile sees beyond its own on each side.
        data_preprocessor: config; :class:`StackRestoration` by default.
        init_cfg: see MMEngine.
    """

    sample_class = RestorationSample
    preprocessor = "dense.StackRestoration"
    output_names = ("restored",)

    def __init__(
        self,
        network: dict | nn.Module,
        loss: str | dict | nn.Module = "l1",
        tile: int | None = None,
        overlap: int = 32,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(network, data_preprocessor, init_cfg)
        if isinstance(loss, str) and loss not in LOSSES:
            raise ValueError(f"loss must be one of {sorted(LOSSES)} or a module, found {loss!r}")
        self.loss_function = LOSSES[loss] if isinstance(loss, str) else self.build_loss(loss)
        self.tile, self.overlap = tile, overlap

    def loss(self, inputs: Tensor, data_samples: Sequence[RestorationSample]) -> dict[str, Tensor]:
        gt = _stack([sample.gt for sample in data_samples])
        return {"loss": self.loss_function(self.network(inputs).float(), gt)}

    def predict(
        self, inputs: Tensor, data_samples: Sequence[RestorationSample]
    ) -> Sequence[RestorationSample]:
        restored = restore(self.network, inputs, self.tile, self.overlap).float()
        for sample, image in zip(data_samples, restored, strict=True):
            sample.set_data({"pred": image})
        return data_samples
