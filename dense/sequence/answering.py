"""Any vision-language network as an MMEngine model that answers questions about pictures with words."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.errors import nearest
from pointsuite.engine.images import SUFFIXES, read_rgb, to_colour

from ..base import Predictor, TaskModel
from ..registry import METRICS, MODELS
from .mosaics import CIFAR10, MosaicSample, Question, list_words
from .networks.vision_remember import IMAGE
from .sample import IGNORED

PADDING, END = 0, 2  # ids that are no words; IMAGE is 1


class WordVocabulary:
    """Ids of words: the first is 3, for 0 is padding, 1 a vision token and 2 the end of an answer."""

    def __init__(self, words: Sequence[str]):
        self.words = tuple(words)
        self._ids = {word: i for i, word in enumerate(self.words, END + 1)}
        if len(self._ids) < len(self.words):
            raise ValueError("a vocabulary has a word twice, wanted each once")

    def __len__(self) -> int:
        return END + 1 + len(self.words)

    def encode(self, text: str) -> list[int]:
        """Ids of words with spaces between them; question marks may stand close.

        Raises:
            ValueError: no word, or one that is not known.
        """
        found = text.lower().replace("?", " ? ").split()
        if not found:
            raise ValueError(f"found no word in {text!r}, wanted a question")
        if unknown := [word for word in found if word not in self._ids]:
            close = nearest(unknown[0], self.words)
            raise ValueError(f"{text!r}: the word {unknown[0]!r} is not in the vocabulary{close}")
        return [self._ids[word] for word in found]

    def decode(self, ids: Sequence[int]) -> str:
        """Words up to the end of the answer; "" for ids that are none."""
        words = []
        for i in map(int, ids):
            if i == END:
                break
            words.append(self.words[i - END - 1] if END < i < len(self) else "")
        return " ".join(words)


@MODELS.register_module()
class PictureAnswerer(TaskModel):
    """Trains and tests a network that answers questions about pictures, each with one word.

    A picture may have several questions: each is a sequence, all look at one encoding. A sequence is the
    picture, the question, the answer and its end; the loss is the mean of -log p of the last two. The guide
    are the question's words. Predicted samples have ``pred_answers``, from the cache after one pass over
    picture and question.

    Args:
        network: config or module, as :class:`~dense.sequence.networks.vision_remember.VisionRemember`; a
            config may leave out ``vocab_size``.
        words: that questions and answers are made of; by default those of mosaics of CIFAR-10's classes.
        data_preprocessor: config; :class:`~dense.base.preprocessors.StackImages` by default.
        init_cfg: see MMEngine.
    """

    sample_class = MosaicSample
    preprocessor = "dense.StackImages"

    def __init__(
        self,
        network: dict | nn.Module,
        words: Sequence[str] | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        self.vocabulary = WordVocabulary(list_words(CIFAR10) if words is None else words)
        if not isinstance(network, nn.Module):
            network = {"vocab_size": len(self.vocabulary), **network}
        super().__init__(network, data_preprocessor, init_cfg)
        if self.network.vocab_size != len(self.vocabulary):
            raise ValueError(
                f"there are {len(self.vocabulary)} words and signs, but the network has vocab_size "
                f"{self.network.vocab_size}"
            )

    def make_batch(
        self, samples: Sequence[MosaicSample], tokens: int, answers: bool, device: torch.device
    ) -> dict[str, Any]:
        """All questions of the samples, padded on the left.

        Args:
            tokens: vision tokens of a picture.
            answers: that are known are put behind the questions.

        Returns:
            ``ids`` int64, ``guide`` and ``mask`` bool, each (B, T), and ``images``, a list of B ints.
        """
        rows, images, asked = [], [], []
        for number, sample in enumerate(samples):
            if not sample.get("questions"):
                raise ValueError(f"sample {sample.get('index', number)}: has no question")
            for question in sample.questions:
                words = self.vocabulary.encode(question.text)
                end = [*self.vocabulary.encode(question.answer), END] if answers else []
                rows.append([IMAGE] * tokens + words + end)
                asked.append((len(words), len(end)))
                images.append(number)
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), PADDING)
        guide = torch.zeros(ids.shape, dtype=torch.bool)
        for i, (row, (words, end)) in enumerate(zip(rows, asked, strict=True)):
            ids[i, length - len(row) :] = torch.tensor(row)
            guide[i, length - end - words : length - end] = True
        batch = {"ids": ids, "guide": guide, "mask": ids != PADDING}
        return {**{name: x.to(device) for name, x in batch.items()}, "images": images}

    def loss(self, inputs: Tensor, data_samples: Sequence[MosaicSample]) -> dict[str, Tensor]:
        batch = self.make_batch(data_samples, self.network.count_tokens(inputs), True, inputs.device)
        logits = self.network(inputs, **batch)[:, :-1]
        told = batch["mask"] & ~batch["guide"] & (batch["ids"] != IMAGE)  # answers and their ends
        targets = batch["ids"].masked_fill(~told, IGNORED)[:, 1:]
        return {"loss": F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())}

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[MosaicSample]) -> Sequence[MosaicSample]:
        batch = self.make_batch(data_samples, self.network.count_tokens(inputs), False, inputs.device)
        answers = iter(self.network.generate(inputs, **batch, max_tokens=2, stop=END).tolist())
        for sample in data_samples:
            words = [self.vocabulary.decode(next(answers)) for _ in sample.questions]
            sample.set_data({"pred_answers": words})
        return data_samples

    def _forward(self, inputs: Tensor, data_samples: Sequence[MosaicSample] | None = None) -> Any:
        if not data_samples:
            raise ValueError("found pictures without samples, wanted questions about them")
        batch = self.make_batch(data_samples, self.network.count_tokens(inputs), False, inputs.device)
        return self.network(inputs, **batch)


@METRICS.register_module()
class AnswerAccuracy(BaseMetric):
    """``answers/all``, ``answers/KIND``: how many percent of the answers are just the wanted word."""

    default_prefix = "answers"

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            pairs = zip(sample["questions"], sample["pred_answers"], strict=True)
            self.results += [(question.kind, question.answer == found) for question, found in pairs]

    def compute_metrics(self, results: list[tuple[str, bool]]) -> dict[str, float]:
        if not results:
            raise ValueError("the test has no question, wanted some")
        kinds = defaultdict(list)
        for kind, right in results:
            kinds[kind].append(right)
        scores = {"all": [right for _, right in results], **dict(sorted(kinds.items()))}
        return {name: 100 * float(np.mean(rights)) for name, rights in scores.items()}


class Answerer(Predictor):
    """Answers questions about pictures, by a config and the weights that were trained with it.

        answer = Answerer("configs/vision_remember/vr-r2_mosaics.py", "work_dirs/vr-r2_mosaics")
        answer("mosaic.png", question="what is top left?")  # "frog"

    A picture is a file, or an array of red, green and blue (H, W, 3); a folder or a list stands for many.

    Args:
        config, checkpoint, device, weights, batch_size, progress: see
            :class:`~pointsuite.engine.predictor.Predictor`; the model is a :class:`PictureAnswerer`.
    """

    suffixes = SUFFIXES

    def __init__(
        self,
        config: str | os.PathLike | Config | nn.Module,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        **options,
    ):
        super().__init__(config, checkpoint, device, **options)
        if not isinstance(self.model, PictureAnswerer):
            raise ValueError(f"found a {type(self.model).__name__}, wanted a PictureAnswerer")

    def __call__(self, inputs: Any, question: str) -> str | list[str]:
        """The answer, or a list of them for many pictures.

        Raises:
            ValueError: a word that the vocabulary does not have, or a picture of a size that does not fit.
        """
        return self._call(inputs, {"question": question})

    def describe_answer(self, prediction: str) -> tuple[str, dict[str, Any]]:
        return prediction, {"answer": prediction}

    def predict(self, inputs: Sequence, question: str) -> Iterator[str]:
        for picture in inputs:
            if isinstance(picture, str | os.PathLike):
                picture = read_rgb(picture)
            picture = torch.from_numpy(
                np.ascontiguousarray(to_colour(np.asarray(picture)).transpose(2, 0, 1))
            )
            sample = MosaicSample()
            sample.set_data({"questions": [Question("", question, "")]})
            (found,) = self.model.test_step({"inputs": [picture], "data_samples": [sample]})
            yield found.pred_answers[0]
