"""Any network of clouds as an MMEngine model that classifies them."""

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from pointsuite.datasets import PointDataSample
from pointsuite.engine.registry import MODELS

from .voting import Votes


@MODELS.register_module()
class StackClouds(BaseDataPreprocessor):
    """Move a batch to the model's device and stack its clouds to (B, N, C)."""

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        clouds = data["inputs"]
        if not isinstance(clouds, Tensor):
            sizes = {tuple(cloud.shape) for cloud in clouds}
            if len(sizes) > 1:
                raise ValueError(
                    f"clouds of one batch must have one shape, found {sorted(sizes)}: "
                    "add pointsuite.SamplePoints to the pipeline"
                )
            data["inputs"] = torch.stack(list(clouds))
        return data


@MODELS.register_module()
class PointCloudClassifier(BaseModel):
    """Trains and runs a network (B, N, 6) -> (B, num_classes) logits.

    Args:
        network: config or module. If it has a method `forward_losses`, points -> (logits, {name: scalar}),
            training adds these losses, whose names contain "loss".
        loss: config of a module (logits (B, C), labels (B,)) -> scalar; cross-entropy by default.
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


MODELS.register_module(module=nn.CrossEntropyLoss)
