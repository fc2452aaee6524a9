"""What networks of clouds share, and what their MMEngine models do."""

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from pointsuite.datasets import PointDataSample
from pointsuite.datasets.examples import example_clouds
from pointsuite.datasets.layout import IGNORED
from pointsuite.engine.network import Network
from pointsuite.engine.task_model import TaskModel, stack_inputs
from pointsuite.registry import MODELS

from .voting import Votes


class CloudNetwork(Network, nn.Module):
    """A published network of clouds: (B, N, 6) points and unit normals -> logits.

    Its variants are options of the class, of which each names those that are not the defaults.
    """

    example_sizes = (512, 600)

    @classmethod
    def create(cls, arch: str | Mapping[str, Any], **options) -> nn.Module:
        return cls(**{**cls.find_arch(arch), **options})

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        return cls.create(next(iter(cls.archs)), **options)

    def example_inputs(self, batch: int = 2, size: int | tuple[int] = 1024) -> tuple[Tensor, ...]:
        """Random arguments of :meth:`forward`; ``size`` is the number of points."""
        return (example_clouds(batch, size if isinstance(size, int) else size[0]),)


class CoordinateNetwork(CloudNetwork):
    """A network that reads coordinates as they are, and of which no published run is pinned."""

    exempt = {
        "rotation": "reads coordinates as they are",
        "translation": "reads coordinates as they are",
        "packs": "no published run is pinned",
    }


@MODELS.register_module()
class StackClouds(BaseDataPreprocessor):
    """Move a batch to the model's device and stack its clouds to (B, N, C)."""

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        clouds = stack_inputs(data["inputs"], "clouds", "add pointsuite.SamplePoints to the pipeline")
        return {**data, "inputs": clouds}


class PointCloudModel(TaskModel):
    """A network of clouds with its loss; a subclass says what they are fed.

    Args:
        network: config or module.
        loss: config of a module (logits, truth) -> scalar; cross-entropy by default. It may weight the
            classes: dict(type="CrossEntropyLoss", weight=[1.0, 5.0]).
        votes: arguments of :class:`~pointsuite.models.voting.Votes`, the test-time augmentation of mode
            "predict", as dict(num=10, scale=(0.8, 1.25)); none by default.
        data_preprocessor: config; :class:`StackClouds` by default.
        init_cfg: see MMEngine.
    """

    registry = MODELS
    sample_class = PointDataSample
    preprocessor = "pointsuite.StackClouds"

    def __init__(
        self,
        network: dict | nn.Module,
        loss: dict | nn.Module | None = None,
        votes: dict | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(network, data_preprocessor, init_cfg)
        self.criterion = self.build_loss(loss or {"type": "CrossEntropyLoss"})
        self.votes = Votes(**(votes or {}))

    def compute_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """The loss; 0, with a gradient of 0, of a batch in which nothing counts, whose mean is 0 / 0.

        What does not count has the loss's `ignore_index`, or a class of weight 0.
        """
        counts = truth != getattr(self.criterion, "ignore_index", IGNORED)
        weight = getattr(self.criterion, "weight", None)
        if isinstance(weight, Tensor) and not truth.is_floating_point():
            counts = counts & (weight[truth.where(counts, 0).clamp(max=len(weight) - 1)] > 0)
        return self.criterion(logits, truth) if counts.any() else 0 * logits.sum()


MODELS.register_module(module=nn.CrossEntropyLoss)
