"""Any network of clouds that segments parts, as an MMEngine model."""

import torch
from torch import Tensor

from pointsuite.datasets import PointDataSample
from pointsuite.engine.registry import MODELS

from .base import PointCloudModel


@MODELS.register_module()
class PointCloudPartSegmenter(PointCloudModel):
    """Trains and runs a network: (B, N, 6) points, (B,) categories -> (B, N, parts) logits.

    The category, a cloud's `gt_label`, is known to the network in training and in testing, as is usual for
    part segmentation. The loss takes logits (B * N, parts) and parts (B * N,). See :class:`PointCloudModel`.
    """

    def forward(
        self, inputs: Tensor, data_samples: list[PointDataSample] | None = None, mode: str = "tensor"
    ):
        """Logits for mode "tensor", {"loss": ...} for "loss", samples with predictions for "predict".

        Without data samples the network gets no category.
        """
        category = [torch.stack([sample.gt_label for sample in data_samples])] if data_samples else []
        if mode == "tensor":
            return self.network(inputs, *category)
        if mode == "loss":
            part = torch.stack([sample.gt_part for sample in data_samples])
            logits = self.network(inputs, *category)
            return {"loss": self.criterion(logits.flatten(0, 1).float(), part.flatten())}
        if mode != "predict":
            raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', found {mode!r}")
        samples = data_samples or [PointDataSample() for _ in inputs]
        for sample, scores in zip(samples, self.votes(self.network, inputs, *category), strict=True):
            sample.set_data({"pred_part_scores": scores, "pred_part": scores.argmax(-1)})
        return samples
