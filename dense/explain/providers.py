"""The model that a name stands for, as :mod:`dense.explain.carve` needs it."""

import os
from pathlib import Path
from typing import Any

from .carve import AttentionProvider


def load_provider(
    source: str | os.PathLike,
    checkpoint: str | os.PathLike | None = None,
    device: str | None = None,
    **processor_options: Any,
) -> AttentionProvider:
    """A vision-language model of Hugging Face, or of this suite.

    Args:
        source: a folder that ``save_pretrained`` of transformers wrote (it has a config.json); or what an
            :class:`~dense.sequence.answering.Answerer` takes: a config or work dir.
        checkpoint: weights for a config.
        device: where it computes; the first GPU, or the CPU.
        **processor_options: of Hugging Face's processor, as ``max_pixels``.

    Raises:
        UsageError: there is no such model.
    """
    if (Path(source) / "config.json").is_file():
        from pointsuite.engine.predictor import find_device

        from .vlm import HuggingFaceVLM

        return HuggingFaceVLM.from_pretrained(source, find_device(device), **processor_options)
    from ..sequence.answering import Answerer
    from .answerer import AnswererVLM

    return AnswererVLM(Answerer(source, checkpoint, device))
