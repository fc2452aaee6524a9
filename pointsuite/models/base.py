"""What the MMEngine models of clouds share: stacking a batch, a network, a loss, test-time augmentation."""

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

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


class PointCloudModel(BaseModel):
    """A network of clouds with its loss; a subclass says what they are fed.

    Args:
        network: config or module.
        loss: config of a module (logits, truth) -> scalar; cross-entropy by default.
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


MODELS.register_module(module=nn.CrossEntropyLoss)
