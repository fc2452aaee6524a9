"""Made photographs in the folders that mosaics are made from."""

from pathlib import Path

import numpy as np
from PIL import Image

from dense.sequence.mosaics import CIFAR10


def write_photos(root: Path, count: int = 2, side: int = 32) -> None:
    """So many photographs of each of CIFAR-10's classes, to train and to test, each class of one colour."""
    rng = np.random.default_rng(0)
    for name in CIFAR10:
        colour = rng.integers(0, 256, 3)
        for split in ("train", "test"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-20, 20, (side, side, 3))
                pixels = (colour + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
