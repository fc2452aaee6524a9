"""Small files in the layouts of the published data sets."""

from pathlib import Path

import numpy as np
from PIL import Image

from dense.segmentation.datasets import CLASSES, VOID

LEVEL = 63  # grey levels from class to class in the masks of slices


def write_camvid(root: Path, counts=(4, 2, 3), size=(64, 48)) -> Path:
    """Images of two colours, each of which is a class; a rim of void. ``size`` is (width, height)."""
    rng = np.random.default_rng(0)
    width, height = size
    colors = np.array([*CLASSES.values(), (0, 0, 0)], np.uint8)
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for i in range(count):
            labels = np.full((height, width), 3, np.uint8)
            labels[: height // 2 + int(rng.integers(-4, 4))] = i % 2
            labels[:2] = VOID
            noise = rng.integers(-9, 9, (height, width, 3))
            image = np.clip(colors[labels] + noise, 0, 255).astype(np.uint8)
            suffix = "png" if i % 2 else "jpg"
            Image.fromarray(image).save(root / split / f"0001TP_{i:06}.{suffix}")
            Image.fromarray(labels).save(root / f"{split}annot" / f"0001TP_{i:06}.png")
    return root


def write_slices(root: Path, scans=(2, 1, 1), slices=3, size=32) -> Path:
    """Scans of two organs on a dark background; the numbers of scans and slices reach 10."""
    rng = np.random.default_rng(0)
    scan = 9
    for split, count in zip(("train", "val", "test"), scans, strict=True):
        for folder in ("Img", "GT"):
            (root / split / folder).mkdir(parents=True)
        for _ in range(count):
            for i in range(slices):
                labels = np.zeros((size, size), np.uint8)
                labels[4:20, 4 : 12 + i] = 1
                labels[8:24, 20:28] = 4
                name = f"Subj_{scan}slice_{9 + i}.png"
                image = np.clip(40 + 50 * labels + rng.integers(-9, 9, labels.shape), 0, 255)
                Image.fromarray(image.astype(np.uint8)).save(root / split / "Img" / name)
                Image.fromarray(LEVEL * labels).save(root / split / "GT" / name)
            scan += 1
    return root
