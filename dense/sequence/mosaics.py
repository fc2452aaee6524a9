"""Mosaics of photographs and questions about them, each with an answer of one word, made by seed.

A mosaic is 3 x 3 photographs of known classes. There are three kinds of questions: "place" ("what is top left
?"), "count" ("how many ships ?") and "beside" ("what is right of the frog ?"). What could be answered in two
ways is never asked: "beside" asks of a class that is there once, and of a neighbour that is in the mosaic.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.structures import BaseDataElement

from pointsuite.engine.errors import UsageError, nearest
from pointsuite.engine.images import find_images, read_rgb

from ..base.datasets import SeededDataset
from ..registry import DATASETS, TRANSFORMS

SIDE = 3  # photographs to a side
KINDS = ("place", "count", "beside")
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
BESIDE = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LIKE_SINGULAR = {"deer", "fish", "sheep"}


class Question(NamedTuple):
    """A question of one of the kinds :data:`KINDS`, as words with spaces between, and its one-word answer."""

    kind: str
    text: str
    answer: str


class MosaicSample(BaseDataElement):
    """What is asked about a picture.

    Data fields:
        questions: list of :class:`Question`.
        pred_answers: list of str, the words that were answered (of a prediction).

    Metainfo: ``index`` (in the data set) and ``tiles``, the classes' names, row by row.
    """


def plural(name: str) -> str:
    return name if name in LIKE_SINGULAR else f"{name}s"


def list_words(classes: Sequence[str]) -> tuple[str, ...]:
    """All words of questions and answers about mosaics of such classes, each once."""
    grammar = ["what is", "how many", "the", "?", *PLACES, *BESIDE]
    names = [*classes, *map(plural, classes)]
    return tuple(dict.fromkeys([word for part in grammar for word in part.split()] + [*NUMBERS, *names]))


def list_questions(tiles: Sequence[str], kind: str, classes: Sequence[str]) -> list[Question]:
    """All questions of a kind that have one answer.

    Args:
        tiles: names of the classes of the photographs, row by row.
        classes: that may be counted.

    Raises:
        ValueError: another number of tiles, or no such kind.
    """
    if len(tiles) != SIDE * SIDE:
        raise ValueError(f"a mosaic has {SIDE * SIDE} photographs, found {len(tiles)}")
    if kind == "place":
        return [Question(kind, f"what is {place} ?", tile) for place, tile in zip(PLACES, tiles, strict=True)]
    if kind == "count":
        counts = {name: list(tiles).count(name) for name in classes}
        return [Question(kind, f"how many {plural(name)} ?", NUMBERS[n]) for name, n in counts.items()]
    if kind != "beside":
        raise ValueError(f"kinds must be of {KINDS}, found {kind!r}{nearest(kind, KINDS)}")
    found = []
    for i, name in enumerate(tiles):
        if list(tiles).count(name) > 1:
            continue
        for words, (down, across) in BESIDE.items():
            row, column = i // SIDE + down, i % SIDE + across
            if 0 <= row < SIDE and 0 <= column < SIDE:
                found.append(Question(kind, f"what is {words} the {name} ?", tiles[row * SIDE + column]))
    return found


def ask(tiles: Sequence[str], count: int, kinds: Sequence[str], classes: Sequence[str]) -> list[Question]:
    """So many questions about a mosaic, by Python's random numbers; the kinds take turns.

    Every other class that is counted is there. No question is asked twice while others are left; where the
    mosaic gives none of a kind, the next one is asked.
    """
    asked: list[Question] = []
    for turn in range(count):
        for step in range(len(kinds)):
            kind = kinds[(turn + step) % len(kinds)]
            known = classes
            if kind == "count" and random.random() < 0.5:
                known = sorted(set(tiles))
            questions = list_questions(tiles, kind, known)
            questions = [question for question in questions if question not in asked] or questions
            if questions:
                asked.append(random.choice(questions))
                break
    return asked


@DATASETS.register_module()
class Mosaics(SeededDataset):
    """Mosaics of the photographs in ``data_root/split/CLASS``, of any class by the same chance.

    In training each pass makes others; with ``test_mode`` they depend on the seed alone. A sample before the
    pipeline: ``sample_idx`` int, ``photos``, a list of 9 pairs of a class's name and a path, ``classes``.

    Args:
        data_root: folder.
        split: folder in it, with one for each class.
        length: mosaics of a pass.
        share: the part of the photographs that is used, by class: (0, 0.9) for the first nine tenths by name,
            (0.9, 1) for the others, which training has not seen then.
        **kwargs: of :class:`~dense.base.datasets.SeededDataset`; ``metainfo=dict(classes=...)`` for others
            than CIFAR-10's.

    Raises:
        OSError: a class has no photograph, or one cannot be read.
        ValueError: no mosaic, or no part of the photographs.
    """

    METAINFO = {"classes": CIFAR10}

    def __init__(
        self,
        data_root: str | os.PathLike,
        split: str = "train",
        length: int = 1000,
        share: tuple[float, float] = (0.0, 1.0),
        **kwargs,
    ):
        if length < 1:
            raise ValueError(f"length must be at least 1, found {length}")
        if not 0 <= share[0] < share[1] <= 1:
            raise ValueError(f"share must be a part of (0, 1), found {tuple(share)}")
        self.folder, self.length, self.share = Path(data_root).expanduser() / split, length, share
        super().__init__(data_root=str(data_root), **kwargs)

    def load_data_list(self) -> list[dict]:
        self.photos = {}
        for name in self.metainfo["classes"]:
            paths = find_images(self.folder / name)
            first, last = (round(part * len(paths)) for part in self.share)
            if not paths[first:last]:
                raise FileNotFoundError(f"{self.folder / name}: found no photograph in the part {self.share}")
            self.photos[name] = paths[first:last]
        return [{} for _ in range(self.length)]

    def get_data_info(self, idx: int) -> dict:
        names = random.choices(list(self.photos), k=SIDE * SIDE)
        photos = [(name, random.choice(self.photos[name])) for name in names]
        return {**super().get_data_info(idx), "photos": photos, "classes": self.metainfo["classes"]}


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class ComposeMosaic:
    """``photos`` to ``img`` uint8 (3 S, 3 S, 3), and ``tiles``, their classes' names.

    Args:
        size: S, pixels to a side of a photograph, which must have that many.
        flip: chance of each photograph to be mirrored, left to right.

    Raises:
        OSError: a photograph cannot be read, or has another size.
    """

    size: int = 32
    flip: float = 0.0

    def __call__(self, sample: dict) -> dict:
        names, paths = zip(*sample["photos"], strict=True)
        rows = [np.concatenate([self._read(p) for p in paths[i : i + SIDE]], 1) for i in range(0, 9, SIDE)]
        image = np.concatenate(rows)
        return {**sample, "img": image, "img_shape": image.shape[:2], "tiles": list(names)}

    def _read(self, path: str) -> np.ndarray:
        image = read_rgb(path)
        if image.shape[:2] != (self.size, self.size):
            raise OSError(
                f"{path}: found {image.shape[0]} x {image.shape[1]} pixels, wanted {self.size} x {self.size}"
            )
        return image[:, ::-1] if random.random() < self.flip else image


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class AskQuestions:
    """``tiles`` to ``questions``, a list of :class:`Question`; see :func:`ask`.

    Args:
        count: of questions.
        kinds: that take turns.

    Raises:
        UsageError: no question, or no such kind.
    """

    count: int = 8
    kinds: Sequence[str] = KINDS

    def __post_init__(self):
        if self.count < 1 or not self.kinds:
            raise UsageError(f"found {self.count} questions of the kinds {self.kinds}, wanted one or more")
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise UsageError(f"kinds must be of {KINDS}, found {unknown[0]!r}{nearest(unknown[0], KINDS)}")

    def __call__(self, sample: dict) -> dict:
        return {**sample, "questions": ask(sample["tiles"], self.count, self.kinds, sample["classes"])}


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class PackMosaic:
    """{"inputs": uint8 tensor (3, H, W); "data_samples": :class:`MosaicSample`}."""

    def __call__(self, sample: dict) -> dict:
        packed = MosaicSample(metainfo={"index": sample.get("sample_idx"), "tiles": sample["tiles"]})
        packed.set_data({"questions": sample["questions"]})
        inputs = torch.from_numpy(np.ascontiguousarray(sample["img"].transpose(2, 0, 1)))
        return {"inputs": inputs, "data_samples": packed}
