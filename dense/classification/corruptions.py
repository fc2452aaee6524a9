"""What goes wrong with photographs outside of data sets, in five severities, and what it costs classifiers.

The levels are those of ImageNet-C, with ``small`` those of CIFAR-10-C: Hendrycks, Dietterich, "Benchmarking
Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019. A corruption is of the picture
as the network sees it, and so stands just before ``PackImage``.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import ClassVar

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from PIL import Image
from torch import nn

from pointsuite.engine.corruptions import (
    SEVERITIES,
    Corruption,
    CorruptionResult,
    choose_rows,
    evaluate_each,
    make_corruptions,
)
from pointsuite.engine.randomness import seeded

from ..registry import TRANSFORMS
from .transforms import PackImage

CORRUPTIONS: dict[str, type[Corruption]] = {}  # by the names of reports
SMALL_SIDE = 64  # pixels up to which pictures are small


@dataclass(frozen=True)
class ImageCorruption(Corruption):
    """Of a sample with ``img``, uint8 (H, W, 3).

    Args:
        severity: 1 to 5.
        small: the levels are those for pictures of some 32 pixels a side.
    """

    small: bool = False

    table: ClassVar = CORRUPTIONS
    registry: ClassVar = TRANSFORMS
    small_levels: ClassVar[tuple[float, ...]]

    @property
    def level(self) -> float:
        return (self.small_levels if self.small else self.levels)[self.severity - 1]

    def __call__(self, sample: dict) -> dict:
        changed = self.corrupt(sample["img"].astype(np.float32) / 255)
        return {**sample, "img": (255 * changed.clip(0, 1)).round().astype(np.uint8)}

    def corrupt(self, image: np.ndarray) -> np.ndarray:
        """Float32 (H, W, 3) in 0..1 to the same, before clipping."""
        raise NotImplementedError


class CorruptNoise(ImageCorruption, name="noise"):
    """Normal noise on every channel of every pixel, from Python's generator."""

    levels = (0.08, 0.12, 0.18, 0.26, 0.38)
    small_levels = (0.04, 0.06, 0.08, 0.09, 0.10)
    unit = "standard deviation, of a range of 1"

    def corrupt(self, image):
        noise = np.random.default_rng(random.getrandbits(64)).standard_normal(image.shape, np.float32)
        return image + self.level * noise


class CorruptBlur(ImageCorruption, name="blur"):
    """A Gaussian filter; pictures go on beyond their border as mirrors."""

    levels = (1, 2, 3, 4, 6)
    small_levels = (0.4, 0.6, 0.7, 0.8, 1.0)
    unit = "standard deviation, in pixels"

    def corrupt(self, image):
        side = 2 * int(4 * self.level + 0.5) + 1
        return cv2.GaussianBlur(image, (side, side), self.level, borderType=cv2.BORDER_REFLECT)


class CorruptContrast(ImageCorruption, name="contrast"):
    """Each channel's distances from its mean over the picture shrink."""

    levels = (0.4, 0.3, 0.2, 0.1, 0.05)
    small_levels = (0.75, 0.5, 0.4, 0.3, 0.15)
    unit = "factor of the distances"

    def corrupt(self, image):
        mean = image.mean((0, 1), keepdims=True)
        return mean + self.level * (image - mean)


class CorruptJpeg(ImageCorruption, name="jpeg"):
    """Written as JPEG and read again."""

    levels = (25, 18, 15, 10, 7)
    small_levels = (80, 65, 58, 50, 40)
    unit = "quality of JPEG, as libjpeg counts"

    def __call__(self, sample: dict) -> dict:
        file = BytesIO()
        Image.fromarray(sample["img"]).save(file, "JPEG", quality=self.level)
        return {**sample, "img": np.array(Image.open(file))}


def evaluate_corruptions(
    model: nn.Module,
    dataset: BaseDataset,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    *,
    max_samples: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
) -> dict[str, CorruptionResult]:
    """Test a classifier on corrupted pictures.

    A corruption draws from (seed, index) alone: the same for every network and severity. Levels are those of
    small pictures where the first one has no side above 64 pixels.

    Args:
        model: an :class:`~dense.classification.ImageClassifier`.
        dataset: with a pipeline that ends in ``PackImage``.
        corruptions: names out of ``CORRUPTIONS``.
        severities: out of 1 to 5.
        max_samples: test so many, spread evenly over the data set; None for all.

    Returns:
        {name: result}, the first named "clean", with the one severity 0.

    Raises:
        ValueError: an unknown corruption or severity, or a pipeline that does not end in ``PackImage``.
    """
    *steps, pack = dataset.pipeline.transforms
    if not isinstance(pack, PackImage):
        raise ValueError(f"the data set's pipeline must end in PackImage, found {[*steps, pack]}")
    rows = choose_rows(len(dataset), max_samples).tolist()

    def read(row: int, *corruption: Corruption) -> dict:
        sample = dataset.get_data_info(row)
        with seeded(seed, row):
            for step in (*steps, *corruption, pack):
                sample = step(sample)
        return sample

    small = max(read(rows[0])["inputs"].shape[1:]) <= SMALL_SIDE
    chosen = make_corruptions(CORRUPTIONS, corruptions, severities, small=small)
    labels = np.array([dataset.get_data_info(row)["gt_label"] for row in rows])

    @torch.inference_mode()
    def predict(*corruption: Corruption) -> np.ndarray:
        found = []
        for start in range(0, len(rows), batch_size):
            batch = [read(row, *corruption) for row in rows[start : start + batch_size]]
            found += [int(sample.pred_label) for sample in model.test_step(pseudo_collate(batch))]
        return np.array(found)

    training = model.training
    model.eval()
    try:
        return evaluate_each(predict, labels, chosen)
    finally:
        model.train(training)
