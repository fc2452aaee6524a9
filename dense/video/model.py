"""Any network that predicts the middle frames of clips as an MMEngine model."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from pointsuite.engine.task_model import stack_inputs

from ..base import TaskModel
from ..registry import MODELS
from .losses import MiddleFrameLoss
from .sample import ClipDataSample
from .scoring import max_patch_error


@MODELS.register_module()
class ScaleClips(BaseDataPreprocessor):
    """Move a batch of clips to the model's device, stack it and scale it from 0..255 to [-1, 1], float32."""

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        clips = stack_inputs(data["inputs"], "clips")
        return {**data, "inputs": clips.float() / 127.5 - 1}


@MODELS.register_module()
class FramePredictor(TaskModel):
    """Trains and tests a network that predicts the frames in the middle of a clip.

    Predicted samples have the errors that :class:`ClipDataSample` names.

    Args:
        network: config or module: clips (B, T, C, H, W) in [-1, 1] -> their targets (B, t, C, H, W), with
            attributes ``context`` (frames before, and after, the targets) and ``num_targets`` (t).
        loss: config or module (prediction, targets) -> scalar; by default the published
            :class:`~dense.video.losses.MiddleFrameLoss`.
        patch: side, in pixels, of the patches of ``patch_mse``.
        data_preprocessor: config; :class:`ScaleClips` by default.
        init_cfg: see MMEngine.
    """

    sample_class = ClipDataSample
    preprocessor = "dense.ScaleClips"
    output_names = ("frames",)

    def __init__(
        self,
        network: dict | nn.Module,
        loss: dict | nn.Module | None = None,
        patch: int = 16,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(network, data_preprocessor, init_cfg)
        self.frame_loss = MiddleFrameLoss() if loss is None else self.build_loss(loss)
        self.patch = patch

    def loss(self, inputs: Tensor, data_samples: Sequence[ClipDataSample] | None = None) -> dict[str, Tensor]:
        return {"loss": self.frame_loss(self.network(inputs), inputs[:, self._targets])}

    def predict(self, inputs: Tensor, data_samples: Sequence[ClipDataSample]) -> Sequence[ClipDataSample]:
        predictions = self.network(inputs).float()
        for prediction, truth, sample in zip(
            predictions, inputs[:, self._targets], data_samples, strict=True
        ):
            self._measure(prediction, truth, sample.get("frames", range(inputs.shape[1])), sample)
        return data_samples

    @property
    def _targets(self) -> slice:
        return slice(self.network.context, self.network.context + self.network.num_targets)

    def _measure(
        self, prediction: Tensor, truth: Tensor, frames: Sequence[int], sample: ClipDataSample
    ) -> None:
        error_map = ((prediction - truth) / 2).square().mean(1)  # (t, H, W) on [0, 1]
        sample.set_data(
            {
                "target_index": torch.tensor(frames[self._targets]),
                "mse": error_map.mean((1, 2)),
                "patch_mse": max_patch_error(error_map, min(self.patch, *error_map.shape[1:])),
                "loss": self.frame_loss(prediction, truth),
                "error_map": error_map,
            }
        )
