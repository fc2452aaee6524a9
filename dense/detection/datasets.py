"""Penn-Fudan pedestrians (Wang et al., "Object detection combining recognition and segmentation", ACCV 2007).

170 images with 423 people, each with a mask. The published folder ``PennFudanPed`` has ``PNGImages/NAME.png``
and ``PedMasks/NAME_mask.png``, whose pixels hold the number of a person, 0 where there is none. Converted,
there are ``images/``, and ``instances_train.json`` and ``instances_val.json`` as COCO has them. No split was
published: here every fifth image, from the first by name, is of the validation.
"""

import argparse
import json
import shutil
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

from pointsuite.engine.files import list_files
from pointsuite.engine.images import open_image, read_labels
from pointsuite.engine.workers import add_workers, run_workers

HELP = "Penn-Fudan pedestrians (PennFudanPed) to COCO json with boxes and masks"
OFFERED = "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip"
IMAGES = 170


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", type=Path, required=True, help="the folder PennFudanPed")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--allow-partial", action="store_true", help="take fewer images than were published")
    add_workers(parser)


def prepare(args: argparse.Namespace) -> str:
    """Write the data set to ``args.out``; returns how much there is of it.

    Raises:
        OSError: files are missing or damaged.
        ValueError: a mask of another size than its image.
    """
    images = list_files(args.source / "PNGImages", "*.png")
    if not images or (len(images) < IMAGES and not args.allow_partial):
        raise FileNotFoundError(
            f"{args.source / 'PNGImages'}: found {len(images)} images, wanted {IMAGES} "
            f"(--allow-partial takes fewer). The data set is offered at {OFFERED}"
        )
    splits = {"train": [], "val": []}
    read = run_workers(partial(_read_people, root=args.source), images, args.workers)
    for i, (image, people) in enumerate(zip(images, read, strict=True)):
        splits["train" if i % 5 else "val"].append((i + 1, image, *people))
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    for image in images:
        shutil.copyfile(image, args.out / "images" / image.name)
    lines, ids = [], count(1)
    for split, entries in splits.items():
        records, people = [], []
        for image_id, image, (width, height), found in entries:
            records.append({"id": image_id, "file_name": image.name, "width": width, "height": height})
            people += [{"id": next(ids), "image_id": image_id, **person} for person in found]
        data = {"images": records, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
        (args.out / f"instances_{split}.json").write_text(json.dumps(data))
        lines.append(f"{split}: {len(records)} images, {len(people)} people")
    return "\n".join([*lines, f"for the configs: --cfg-options data_root={args.out}"])


def _read_people(image: Path, root: Path) -> tuple[tuple[int, int], list[dict]]:
    """Width and height, and the people."""
    path = root / "PedMasks" / f"{image.stem}_mask.png"
    picture, numbers = open_image(image), read_labels(path)
    if numbers.shape[::-1] != picture.size:
        raise ValueError(f"{path}: is {numbers.shape[::-1]} pixels, wanted {picture.size} as its image")
    people = np.unique(numbers)
    masks = numbers == people[people > 0, None, None]
    return picture.size, [_describe(mask) for mask in masks]


def _describe(mask: np.ndarray) -> dict:
    """Box, area and COCO's runs of a mask, which go down the columns and begin with the background."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    runs = np.diff([0, *changes, flat.size])
    size = [int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [int(columns[0]), int(rows[0]), *size],
        "segmentation": {"size": list(mask.shape), "counts": [int(run) for run in runs]},
    }
