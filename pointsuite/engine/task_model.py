"""One shell for the models of every task: a network, and what MMEngine's three modes make of it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModel
from mmengine.registry import Registry
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

MODES = ("tensor", "loss", "predict")


def stack_inputs(inputs: Tensor | Sequence[Tensor], what: str, hint: str = "") -> Tensor:
    """The inputs of one batch as one tensor; nothing is padded.

    Args:
        what: they are called by errors, as "images".
        hint: to the user whose inputs differ in size.

    Raises:
        ValueError: they do.
    """
    if isinstance(inputs, Tensor):
        return inputs
    if len(sizes := {tuple(part.shape) for part in inputs}) > 1:
        raise ValueError(
            f"{what} of one batch must have one size, found {sorted(sizes)}{hint and f': {hint}'}"
        )
    return torch.stack(list(inputs))


class TaskModel(BaseModel):
    """A network with its loss as MMEngine trains and tests it.

    A subclass says what its samples hold: it has ``sample_class``, and overrides :meth:`loss`,
    :meth:`predict` and, where a network wants more than a batch of inputs, :meth:`_forward`. Parameters are
    named ``network.*``, so that weights go from a run to a bare network and back.

    Args:
        network: config or module; None where a subclass names its parts otherwise.
        data_preprocessor: config or module; by default of the class ``preprocessor``.
        init_cfg: see MMEngine.
    """

    registry: ClassVar[Registry]  # in which configs of parts are looked up
    sample_class: ClassVar[type[BaseDataElement]]
    preprocessor: ClassVar[str]
    output_names: ClassVar[tuple[str, ...]] = ("logits",)
    classes_key: ClassVar[str] = "classes"  # of a data set's metainfo: what the network has scores for

    def __init__(
        self,
        network: dict | nn.Module | None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor or {"type": self.preprocessor}, init_cfg)
        if network is not None:
            self.network = self.build(network)

    @classmethod
    def build(cls, part: Mapping[str, Any] | Any) -> Any:
        """What a config describes; anything else as it is."""
        return cls.registry.build(part) if isinstance(part, Mapping) else part

    @classmethod
    def build_loss(cls, loss: Mapping[str, Any] | nn.Module) -> nn.Module:
        """A loss; of PyTorch's, lists of numbers, as the classes' weights, become tensors.

        They come from the config and so are not saved: checkpoints load where there is no loss, or another.
        """
        if not isinstance(loss, Mapping):
            return loss
        kind = cls.registry.get(loss["type"]) if isinstance(loss["type"], str) else loss["type"]
        if not getattr(kind, "__module__", "").startswith("torch."):
            return cls.build(loss)
        weights = {name: torch.tensor(value, dtype=torch.float32) for name, value in loss.items()
                   if isinstance(value, (list, tuple))}  # fmt: skip
        built = cls.build({**loss, **weights})
        built._non_persistent_buffers_set.update(built._buffers)
        return built

    def forward(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None, mode: str = "tensor"
    ) -> Any:
        """What the network computes for mode "tensor", {"loss...": scalar} for "loss", samples with
        predictions for "predict"; new samples, where none are given."""
        if mode == "tensor":
            return self._forward(inputs, data_samples)
        if mode == "loss":
            return self.loss(inputs, data_samples)
        if mode == "predict":
            return self.predict(inputs, data_samples or [self.sample_class() for _ in inputs])
        raise ValueError(f"mode must be one of {MODES}, found {mode!r}")

    def _forward(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None) -> Any:
        return self.network(inputs)

    def raw_outputs(self, inputs: Tensor) -> Any:
        """What :meth:`predict` decides from, as tensors: what is exported, by :attr:`output_names`."""
        return self._forward(inputs)

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """What training adds up: all whose name contains "loss"."""
        raise NotImplementedError

    def predict(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> list[BaseDataElement]:
        """The samples, with predictions."""
        raise NotImplementedError

    def example_inputs(self, batch: int, size: tuple[int, int]) -> tuple[Any, ...]:
        """Random arguments of mode "tensor", to count and time what the network does."""
        return self.network.example_inputs(batch, size)
