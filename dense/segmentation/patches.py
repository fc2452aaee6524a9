"""Patches of labelled scenes in a folder a class: a data set for classifiers.

``OUT/SPLIT/CLASS/SCENE_ROW_COLUMN.png``, as :class:`~dense.classification.datasets.ImageFolder` reads them.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pointsuite.engine.errors import UsageError
from pointsuite.engine.images import open_image, read_labels, to_rgb
from pointsuite.engine.workers import add_workers, run_workers

from .datasets import CLASSES, COUNTS, VOID, find_pairs

HELP = "CamVid: cuts scenes into patches, in folders of the classes that most of their pixels have"


def cut_patches(
    pixels: np.ndarray, labels: np.ndarray, size: int, share: float
) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """Patches side by side from the top left; what is left at the right and below is dropped.

    Args:
        pixels: (H, W, 3).
        labels: (H, W), numbers of classes, and :data:`~dense.segmentation.datasets.VOID`.
        size: pixels of a side.
        share: of a patch's pixels, the least that its class must have.

    Yields:
        class, row, column, pixels (size, size, 3).
    """
    for row in range(labels.shape[0] // size):
        for column in range(labels.shape[1] // size):
            place = np.s_[row * size : (row + 1) * size, column * size : (column + 1) * size]
            counts = np.bincount(labels[place].ravel(), minlength=VOID + 1)[:VOID]
            if counts.max() >= share * size**2:
                yield int(counts.argmax()), row, column, pixels[place]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="CamVid: the folder with train, trainannot")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, which must be new")
    parser.add_argument("--size", type=int, default=96, help="pixels of a side (default: 96)")
    parser.add_argument(
        "--share", type=float, default=0.5, help="least share of the pixels that the class has (default: 0.5)"
    )
    parser.add_argument(
        "--min-train", type=int, default=20, help="drop classes with fewer patches to train (default: 20)"
    )
    add_workers(parser)


def prepare(args: argparse.Namespace) -> str:
    """Write the patches of all splits; returns a table of how many each class has.

    Raises:
        UsageError: ``args.out`` exists, a number is out of range, or no class has enough patches.
        OSError: a scene or its labels are missing or damaged.
        ValueError: labels of another size than their image.
    """
    if args.out.exists():
        raise UsageError(f"{args.out}: exists, wanted a new folder")
    if args.size < 1 or not 0 < args.share <= 1:
        raise UsageError(
            f"--size must be at least 1 and --share in (0, 1], found {args.size} and {args.share}"
        )
    names, pairs = list(CLASSES), {split: find_pairs(args.root, split) for split in COUNTS}
    # what is too rare to learn is not written: count first
    found = sum(run_workers(partial(_count, args=args), pairs["train"], args.workers), Counter())
    kept = {label for label, count in found.items() if count >= args.min_train}
    if not kept:
        raise UsageError(f"{args.root}: no class has {args.min_train} patches of {args.size} pixels")
    counts = {}
    for split in COUNTS:
        job = partial(_write, folder=args.out / split, kept=kept, args=args)
        counts[split] = sum(run_workers(job, pairs[split], args.workers), Counter())
    lines = [" ".join([f"{'patches':15}", *(f"{split:>6}" for split in counts)])]
    for label in sorted(kept):
        lines.append(" ".join([f"{names[label]:15}", *(f"{found[label]:6}" for found in counts.values())]))
    if dropped := [name for label, name in enumerate(names) if label not in kept]:
        lines.append(f"too rare: {', '.join(dropped)}")
    lines.append(f"for the configs: --cfg-options data_root={args.out} model.num_classes={len(kept)}")
    return "\n".join(lines)


def _count(pair: tuple[Path, Path], args: argparse.Namespace) -> Counter:
    return Counter(label for label, *_ in _cut(*pair, args))


def _write(pair: tuple[Path, Path], folder: Path, kept: set[int], args: argparse.Namespace) -> Counter:
    """How many patches of each class were written of a scene."""
    names, counts = list(CLASSES), Counter()
    for label, row, column, patch in _cut(*pair, args):
        if label in kept:
            place = folder / names[label].replace(" ", "_")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(patch).save(place / f"{pair[0].stem}_{row}_{column}.png")
            counts[label] += 1
    return counts


def _cut(image: Path, labels: Path, args: argparse.Namespace) -> Iterator[tuple[int, int, int, np.ndarray]]:
    pixels, found = np.asarray(to_rgb(open_image(image), str(image))), read_labels(labels)
    if found.shape != pixels.shape[:2]:
        size = pixels.shape[1::-1]
        raise ValueError(f"{labels}: is {found.shape[::-1]} pixels, wanted {size} as its image")
    return cut_patches(pixels, found, args.size, args.share)
