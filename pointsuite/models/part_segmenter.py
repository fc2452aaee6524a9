"""Any network of clouds that segments parts, as an MMEngine model."""

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from pointsuite.datasets import PointDataSample
from pointsuite.engine.registry import MODELS

from .voting import Votes


@MODELS.register_module()
class PointCloudPartSegmenter(BaseModel):
    """Trains and runs a network: (B, N, 6) points, (B,) categories -> (B, N, parts) logits.

    The category, a cloud's `gt_label`, is known to the network in training and in testing, as is usual for
    part segmentation.

    Args:
        network: config or module.
        loss: config of a module (logits (M, parts), parts (M,)) -> scalar; cross-entropy by default.
        votes: arguments of :class:`~pointsuite.models.voting.Votes`, the test-time augmentation of mode
            "predict", as dict(num=10, scale=(0.8, 1.25)); none by default.
        data_preprocessor: config; :class:`StackClouds` by default.
        init_cfg: see MMEngine.
    """

    def __init__(
        self,
        network: dict | nn.Module,
        loss: dict | nn.Module | None = None,
        votes: dict | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor or {"type": "pointsuite.StackClouds"}, init_cfg)
        self.network = MODELS.build(network) if isinstance(network, dict) else network
        loss = loss or {"type": "CrossEntropyLoss"}
        self.criterion = MODELS.build(loss) if isinstance(loss, dict) else loss
        self.votes = Votes(**(votes or {}))

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
