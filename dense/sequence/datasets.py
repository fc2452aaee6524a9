"""Windows of tokens: of text files, as bytes or characters, and of photographs, as bytes."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pointsuite.engine.errors import UsageError, nearest
from pointsuite.engine.files import read_text
from pointsuite.engine.images import find_images, open_image, to_rgb, upright

from ..base.datasets import SeededDataset
from ..registry import DATASETS
from .sample import IGNORED, SequenceSample
from .text import Vocabulary

SPLITS = ("train", "val")
START = 256  # the token before the first byte of a picture


def next_tokens(window: Tensor, **known) -> dict:
    """A sample of n + 1 tokens: the first n are the input, the last n the targets; `known` joins them."""
    sample = SequenceSample(metainfo=known)
    sample.set_data({"targets": window[1:]})
    return {"inputs": window[:-1], "data_samples": sample}


@DATASETS.register_module()
class TextWindows(SeededDataset):
    """Windows of a text file, whose last tenth is held out.

    In training, windows begin anywhere, by the random numbers of the sample. In the test (``test_mode``)
    they lie side by side, so that each target is predicted once; the last one ends with the text.

    Args:
        data_root: folder of the file.
        file: its name; text in UTF-8.
        split: "train", the first 90 % of the tokens, or "val", the others.
        context: n, tokens that the network sees.
        unit: "character" or "byte", what a token is. The characters are those of the whole file, by code
            point; the metainfo "vocabulary" has them, None for bytes.
        length: windows of an epoch of training; by default as many as lie side by side.
        **kwargs: of :class:`~dense.base.datasets.SeededDataset`.

    Raises:
        OSError: the file cannot be read, or is no text.
        UsageError: the split has no window, or there is no such split.
    """

    def __init__(
        self,
        data_root: str | os.PathLike,
        file: str,
        split: str = "train",
        context: int = 256,
        unit: str = "character",
        length: int | None = None,
        **kwargs,
    ):
        if split not in SPLITS:
            raise UsageError(f"split must be one of {SPLITS}, found {split!r}{nearest(split, SPLITS)}")
        for name, value in (("context", context), ("length", 1 if length is None else length)):
            if value < 1:
                raise UsageError(f"{name} must be at least 1, found {value}")
        self.path, self.split, self.context = Path(data_root).expanduser() / file, split, context
        self.unit, self.length = unit, length
        super().__init__(data_root=str(data_root), **kwargs)

    def load_data_list(self) -> list[dict]:
        text = read_text(self.path)
        vocabulary = Vocabulary.of(text, self.unit)
        self._metainfo["vocabulary"] = vocabulary.characters
        tokens = vocabulary.encode(text)
        border = len(tokens) * 9 // 10
        self.tokens = tokens[:border] if self.split == "train" else tokens[border:]
        if len(self.tokens) <= self.context:
            raise UsageError(
                f"{self.path}: its part {self.split!r} has {len(self.tokens)} {self.unit}s, wanted more than "
                f"the context of {self.context}"
            )
        return [{"start": start} for start in range(0, len(self.tokens) - 1, self.context)]

    def __len__(self) -> int:
        return super().__len__() if self.test_mode or self.length is None else self.length

    def get_data_info(self, idx: int) -> dict:
        if self.test_mode:
            start = super().get_data_info(idx)["start"]
        else:
            start = int(torch.randint(len(self.tokens) - self.context, ()))
        return self._cut(start, idx)

    def _cut(self, start: int, idx: int) -> dict:
        """The window there; of the last one of a test, which begins earlier, only the targets left."""
        first = min(start, len(self.tokens) - 1 - self.context)
        sample = next_tokens(self.tokens[first : first + self.context + 1], start=first, sample_idx=idx)
        if first < start:
            targets = sample["data_samples"].targets.clone()
            targets[: start - first] = IGNORED
            sample["data_samples"].targets = targets
        return sample


@DATASETS.register_module()
class PixelSequences(SeededDataset):
    """Photographs as bytes, row by row, red, green and blue of each pixel; a start token (256) comes first.

    Args:
        data_root: folder of the images; they may lie deeper.
        split: folder in it.
        side: images are cut to a square in the middle and made ``side`` x ``side`` (area average); a
            sequence has 3 * side^2 bytes.
        every: take only every so many-th image, in the order of their paths.
        **kwargs: of :class:`~dense.base.datasets.SeededDataset`, as ``indices=1000``.

    Raises:
        OSError: there is no image, or one that cannot be read.
    """

    def __init__(
        self, data_root: str | os.PathLike, split: str = "", side: int = 16, every: int = 1, **kwargs
    ):
        for name, value in (("side", side), ("every", every)):
            if value < 1:
                raise UsageError(f"{name} must be at least 1, found {value}")
        self.folder, self.side, self.every = Path(data_root).expanduser() / split, side, every
        super().__init__(data_root=str(data_root), **kwargs)

    def load_data_list(self) -> list[dict]:
        paths = find_images(self.folder)
        if not paths:
            raise FileNotFoundError(f"{self.folder}: found no image")
        return [{"img_path": path} for path in paths[:: self.every]]

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        pixels = to_bytes(info["img_path"], self.side)
        window = torch.cat((torch.tensor([START]), torch.from_numpy(pixels).long().flatten()))
        return next_tokens(window, **info)


def to_bytes(path: str | os.PathLike, side: int) -> np.ndarray:
    """The square in the middle of an image file, made smaller: uint8 (side, side, 3)."""
    image = to_rgb(upright(open_image(path)), str(path))
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    box = (left, top, left + short, top + short)
    return np.array(image.resize((side, side), Image.Resampling.BOX, box=box))
