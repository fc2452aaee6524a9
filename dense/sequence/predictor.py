"""A prompt in, text out."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from pointsuite.engine.checkpoint import atomic_write
from pointsuite.engine.errors import one_line
from pointsuite.engine.files import read_text
from pointsuite.engine.predictor import add_suffix

from ..base import Predictor
from .language_model import LanguageModel
from .sampling import speak
from .text import Vocabulary


class Generator(Predictor):
    """Goes on writing where a prompt ends, by a config and the weights that were trained with it.

        write = Generator("configs/transnormer/tnl-tiny_shakespeare.py", "work_dirs/tnl-tiny_shakespeare")
        print(write("ROMEO:", length=300, temperature=0.8, seed=1))

    Each prompt starts the random numbers anew, so that a text depends on its own prompt and options alone.

    Args:
        config, checkpoint, device, weights, progress: see :class:`~pointsuite.engine.predictor.Predictor`;
            the network is a :class:`~dense.sequence.language_model.LanguageModel`.
        vocabulary: characters that the tokens stand for, or "byte"; by default what checkpoint or config
            say, and bytes for a bare network of 256 tokens.

    Attributes:
        network: the language model.
        vocabulary: a :class:`~dense.sequence.text.Vocabulary`.

    Raises:
        ValueError: a network that is none, or a vocabulary that is unknown or of another size.
    """

    def __init__(
        self,
        config: str | os.PathLike | Config | nn.Module,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        weights: str | os.PathLike | None = None,
        vocabulary: str | Sequence[str] | None = None,
        progress: bool | None = None,
    ):
        super().__init__(config, checkpoint, device, weights=weights, progress=progress)
        network = getattr(self.model, "network", self.model)
        if not isinstance(network, LanguageModel):
            raise ValueError(f"found a {type(network).__name__}, wanted a network that predicts tokens")
        self.network = network
        self.vocabulary = self._find_vocabulary(vocabulary)
        if len(self.vocabulary) != network.vocab_size:
            raise ValueError(
                f"the vocabulary has {len(self.vocabulary)} tokens, but the network {network.vocab_size}"
            )

    def _find_vocabulary(self, given: str | Sequence[str] | None) -> Vocabulary:
        if given is not None:
            return Vocabulary(None if given == "byte" else given)
        known: Mapping[str, Any] = self.meta.get("dataset_meta") or {}
        if "vocabulary" not in known and self.cfg is not None:
            with DefaultScope.overwrite_default_scope(self.registry.scope):
                known = DATASETS.build(self.cfg.test_dataloader.dataset).metainfo
        if "vocabulary" in known:
            return Vocabulary(known["vocabulary"])
        if self.network.vocab_size != 256:
            raise ValueError(
                f"it is not said what the {self.network.vocab_size} tokens are, wanted vocabulary=CHARACTERS"
            )
        return Vocabulary()

    def __call__(
        self,
        prompt: str | os.PathLike | Sequence[str | os.PathLike],
        length: int = 500,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> str | list[str]:
        """What follows a prompt, without the prompt.

        Args:
            prompt: text, or a ``Path`` for that in a file; a list or tuple for many.
            length: tokens to write.
            temperature: below 1 the text gets surer, above it bolder; 0 takes the most probable token.
            top_k: choose among so many of the most probable tokens; None among all.
            seed: of the choices.

        Raises:
            ValueError: a prompt that is empty, longer than positions reach or of characters that are not in
                the vocabulary; options out of their range.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1, found {length}")
        options = {"length": length, "temperature": temperature, "top_k": top_k, "seed": seed}
        return self._call(prompt, options)

    def is_many(self, inputs: Any) -> bool:
        return isinstance(inputs, list | tuple)

    def answer_batch(
        self, files: list[str], stems: list[Path | None], **options
    ) -> Iterator[tuple[str, dict[str, Any], list[Path]]]:
        """What follows the text in each file, which is written behind that text."""
        for source, stem in zip(files, stems, strict=True):
            text = self(Path(source), **options)
            written = [] if stem is None else [add_suffix(stem, ".txt")]
            for path in written:
                with atomic_write(path) as file:
                    file.write((read_text(source) + text).encode())
            yield one_line(text), {"text": text}, written

    def predict(self, inputs: Sequence, length: int, seed: int, **options) -> Iterator[str]:
        for prompt in inputs:
            yield self.vocabulary.decode(islice(self.tokens(prompt, seed=seed, **options), length))

    def tokens(self, prompt: str | os.PathLike, seed: int = 0, **options) -> Iterator[int]:
        """The ids that follow, without end; options as of a call."""
        ids = self.vocabulary.encode(read_text(prompt) if isinstance(prompt, Path) else str(prompt))
        generator = torch.Generator().manual_seed(seed)
        return speak(self.network, ids.to(self.device), generator=generator, **options)
