"""Any causal language model as an MMEngine model."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor
from torch.nn import functional as F

from pointsuite.engine.task_model import stack_inputs

from ..base import TaskModel
from ..registry import MODELS
from .sample import IGNORED, SequenceSample


@MODELS.register_module()
class StackTokens(BaseDataPreprocessor):
    """Move a batch of token sequences of one length to the model's device and stack it: (B, n) int64."""

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        return {**data, "inputs": stack_inputs(data["inputs"], "sequences").long()}


@MODELS.register_module()
class LanguageModeler(TaskModel):
    """Trains and tests a network that predicts the next token: (B, n) ids to logits (B, n, V).

    The loss is the mean of -log p of the targets, in nats. Predicted samples have ``nats``, ``tokens`` and
    ``hits``.

    Args:
        network: config or module, a :class:`~dense.sequence.language_model.LanguageModel`.
        data_preprocessor: config; :class:`StackTokens` by default.
        init_cfg: see MMEngine.
    """

    sample_class = SequenceSample
    preprocessor = "dense.StackTokens"
    classes_key = "vocabulary"

    def loss(self, inputs: Tensor, data_samples: Sequence[SequenceSample]) -> dict[str, Tensor]:
        logits, targets = self._compare(inputs, data_samples)
        return {"loss": F.cross_entropy(logits, targets, ignore_index=IGNORED)}

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[SequenceSample]) -> Sequence[SequenceSample]:
        logits, targets = self._compare(inputs, data_samples)
        nats = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none").double()
        hits = logits.argmax(1) == targets
        nats, hits = nats.view(inputs.shape).sum(1), hits.view(inputs.shape).sum(1)
        for i, sample in enumerate(data_samples):
            tokens = int((sample.targets != IGNORED).sum())
            sample.set_data({"nats": nats[i], "tokens": tokens, "hits": int(hits[i])})
        return data_samples

    def _compare(self, inputs: Tensor, data_samples: Sequence[SequenceSample]) -> tuple[Tensor, Tensor]:
        """Logits (B * n, V) and targets (B * n) of a batch."""
        if any("targets" not in sample for sample in data_samples):
            raise ValueError("found a sample without targets, wanted the tokens that follow its inputs")
        targets = torch.stack([sample.targets for sample in data_samples]).to(inputs.device)
        if targets.shape != inputs.shape:
            raise ValueError(
                f"targets must be {tuple(inputs.shape)} as the tokens, found {tuple(targets.shape)}"
            )
        logits = self.network(inputs).float()
        size = logits.shape[-1]
        if wrong := targets[(targets != IGNORED) & ((targets < 0) | (targets >= size))].tolist():
            raise ValueError(f"targets must be 0..{size - 1} or {IGNORED}, found {wrong[0]}")
        return logits.flatten(0, 1), targets.flatten()
