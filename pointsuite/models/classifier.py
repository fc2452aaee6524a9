"""Any network of clouds as an MMEngine model that classifies them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pointsuite.datasets import PointDataSample
from pointsuite.registry import MODELS

from .base import PointCloudModel


@MODELS.register_module()
class PointCloudClassifier(PointCloudModel):
    """Trains and runs a network (B, N, 6) -> (B, num_classes) logits; see :class:`PointCloudModel`.

    If the network has a method `forward_losses`, points -> (logits, {name: scalar}), training adds these
    losses, whose names contain "loss". The loss takes logits (B, C) and labels (B,).
    """

    def loss(self, inputs: Tensor, data_samples: Sequence[PointDataSample]) -> dict[str, Tensor]:
        if hasattr(self.network, "forward_losses"):
            logits, losses = self.network.forward_losses(inputs)
        else:
            logits, losses = self.network(inputs), {}
        labels = torch.stack([sample.gt_label for sample in data_samples])
        return {"loss": self.compute_loss(logits.float(), labels), **losses}

    def predict(self, inputs: Tensor, data_samples: Sequence[PointDataSample]) -> list[PointDataSample]:
        for sample, scores in zip(data_samples, self.votes(self.network, inputs), strict=True):
            sample.set_data({"pred_scores": scores, "pred_label": scores.argmax()})
        return list(data_samples)
