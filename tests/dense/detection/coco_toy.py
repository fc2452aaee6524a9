"""A small data set in COCO's format: coloured rectangles on dark noise, and what goes wrong in real ones."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("red", "green", "blue")
COLORS = np.eye(3, dtype=np.uint8) * 250
SIZE = (96, 64)  # width, height
# annotations by what is special about them: what MMDetection's reader drops, and what it takes
DROPPED = {
    "flat": {"bbox": [10, 10, 20, 0], "area": 0},
    "narrow": {"bbox": [10, 10, 0.5, 20], "area": 10},
    "no area": {"bbox": [10, 10, 20, 20], "area": 0},
    "ignored": {"bbox": [10, 10, 20, 20], "ignore": 1},
}
TAKEN = {
    "corner": {"bbox": [0, 0, 12, 9]},
    "other corner": {"bbox": [SIZE[0] - 12, SIZE[1] - 9, 12, 9]},
    "whole": {"bbox": [0, 0, *SIZE]},
    "beyond": {"bbox": [-10, -5, 40, 30]},
}
CROWD = {"bbox": [4, 4, 60, 40], "iscrowd": 1}


def write_coco(
    folder: Path,
    images: Sequence[Sequence[dict] | int] = (1, 2, 3, 0),
    *,
    name: str = "instances.json",
    classes: Sequence[str] = CLASSES,
    seed=0,
) -> Path:
    """Write images and their annotations; nothing else is random than boxes that are only counted.

    Args:
        folder: where to, as ``images/0.png`` ... and ``name``.
        images: of each image, how many rectangles to place, or annotations to write as they are: ``bbox`` and
            whatever else differs from a plain box of the first class.
        name: of the annotations.
        classes: names of the categories 1, 11, 21, ...; boxes to place are of the first three.

    Returns:
        The path of the annotations.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    data = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 10 * i + 1, "name": name} for i, name in enumerate(classes)],
    }
    for i, boxes in enumerate(images):
        boxes = [_random_box(rng) for _ in range(boxes)] if isinstance(boxes, int) else boxes
        pixels = rng.integers(0, 60, (SIZE[1], SIZE[0], 3), np.uint8)
        for box in boxes:
            annotation = {"id": len(data["annotations"]) + 1, "image_id": i, "category_id": 1, "iscrowd": 0}
            annotation["area"] = box["bbox"][2] * box["bbox"][3]
            annotation.update(box)
            x, y, w, h = (round(max(v, 0)) for v in box["bbox"])
            pixels[y : y + h, x : x + w] = COLORS[annotation["category_id"] // 10 % 3]
            data["annotations"].append(annotation)
        Image.fromarray(pixels).save(folder / f"images/{i}.png")
        data["images"].append({"id": i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]})
    (folder / name).write_text(json.dumps(data))
    return folder / name


def _random_box(rng: np.random.Generator) -> dict:
    width, height = (int(v) for v in rng.integers((12, 12), (50, 40)))
    x, y = int(rng.integers(0, SIZE[0] - width)), int(rng.integers(0, SIZE[1] - height))
    return {"bbox": [x, y, width, height], "category_id": int(10 * rng.integers(3) + 1)}
