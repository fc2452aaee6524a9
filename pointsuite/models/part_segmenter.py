"""Any network of clouds that segments parts, as an MMEngine model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pointsuite.datasets import PointDataSample
from pointsuite.registry import MODELS

from .base import PointCloudModel


@MODELS.register_module()
class PointCloudPartSegmenter(PointCloudModel):
    """Trains and runs a network: (B, N, 6) points, (B,) categories -> (B, N, parts) logits.

    The category, a cloud's `gt_label`, is known to the network in training and in testing, as is usual for
    part segmentation; where samples have none, the network gets none. The loss takes logits (B * N, parts)
    and parts (B * N,). See :class:`PointCloudModel`.
    """

    classes_key = "part_classes"

    @staticmethod
    def _category(data_samples: Sequence[PointDataSample] | None) -> list[Tensor]:
        """The network's arguments beside the points."""
        known = [sample.gt_label for sample in data_samples or () if "gt_label" in sample]
        return [torch.stack(known)] if known else []

    def _forward(self, inputs: Tensor, data_samples: Sequence[PointDataSample] | None = None) -> Tensor:
        return self.network(inputs, *self._category(data_samples))

    def loss(self, inputs: Tensor, data_samples: Sequence[PointDataSample]) -> dict[str, Tensor]:
        part = torch.stack([sample.gt_part for sample in data_samples])
        logits = self._forward(inputs, data_samples).flatten(0, 1).float()
        return {"loss": self.compute_loss(logits, part.flatten())}

    def predict(self, inputs: Tensor, data_samples: Sequence[PointDataSample]) -> list[PointDataSample]:
        scores_of_all = self.votes(self.network, inputs, *self._category(data_samples))
        for sample, scores in zip(data_samples, scores_of_all, strict=True):
            sample.set_data({"pred_part_scores": scores, "pred_part": scores.argmax(-1)})
        return list(data_samples)
