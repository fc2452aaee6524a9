"""Any network of clouds as an MMEngine model that classifies them."""

import torch
from torch import Tensor

from pointsuite.datasets import PointDataSample
from pointsuite.engine.registry import MODELS

from .base import PointCloudModel


@MODELS.register_module()
class PointCloudClassifier(PointCloudModel):
    """Trains and runs a network (B, N, 6) -> (B, num_classes) logits; see :class:`PointCloudModel`.

    If the network has a method `forward_losses`, points -> (logits, {name: scalar}), training adds these
    losses, whose names contain "loss". The loss takes logits (B, C) and labels (B,).
    """

    def forward(
        self, inputs: Tensor, data_samples: list[PointDataSample] | None = None, mode: str = "tensor"
    ):
        """Logits for mode "tensor", {"loss": ...} for "loss", samples with predictions for "predict"."""
        if mode == "tensor":
            return self.network(inputs)
        if mode == "loss":
            if hasattr(self.network, "forward_losses"):
                logits, losses = self.network.forward_losses(inputs)
            else:
                logits, losses = self.network(inputs), {}
            labels = torch.stack([sample.gt_label for sample in data_samples])
            return {"loss": self.criterion(logits.float(), labels), **losses}
        if mode != "predict":
            raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', found {mode!r}")
        samples = data_samples or [PointDataSample() for _ in inputs]
        for sample, scores in zip(samples, self.votes(self.network, inputs), strict=True):
            sample.set_data({"pred_scores": scores, "pred_label": scores.argmax()})
        return samples
