"""Files and what was predicted of them, side by side, to click through."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pointsuite.engine.errors import UsageError
from pointsuite.engine.files import read_json
from pointsuite.engine.images import SUFFIXES, find_images, read_rgb
from pointsuite.io import read_points

from .gallery import Item, cloud_item, picture_item, text_item, write_gallery

GAP = 6  # pixels between pictures side by side
LETTERS = 200  # of what is said of one file
TOP = 3  # classes that are named


def write_predictions(path: str | Path, out: str | Path, limit: int = 40) -> int:
    """Write a page of what ``tools/predict.py --out`` kept: files beside the pictures that were written.

    Args:
        path: its JSON file.
        out: an .html file, written whole or not at all.
        limit: predictions that are shown, the first ones; the page says of how many.

    Returns:
        how many are shown.

    Raises:
        UsageError: no such file, or a file of it that cannot be read.
    """
    said = read_json(path)
    records = said.get("predictions") if isinstance(said, Mapping) else None
    if not isinstance(records, list) or not all(isinstance(r, Mapping) and "file" in r for r in records):
        raise UsageError(f"{path}: found no predictions of files, wanted what tools/predict.py --out writes")
    if not records:
        raise UsageError(f"{path}: found no prediction to show, wanted at least 1")
    items = [_show(record) for record in records[:limit]]
    heading = f"{len(records):,} predictions" + f", the first {limit} are shown" * (len(records) > limit)
    heading += f"; weights: {said['weights']}" if said.get("weights") else ""
    write_gallery(out, items, title=f"Predictions in {Path(path).name}", heading=heading)
    return len(items)


def write_images(folder: str | Path, out: str | Path, limit: int = 40) -> int:
    """Write a page of an image, or of those below a folder, by name; returns how many are shown.

    Raises:
        UsageError: there is none.
        OSError: one that cannot be read.
    """
    folder = Path(folder)
    found = find_images(folder) if folder.is_dir() else [str(folder)]
    if not found:
        raise UsageError(f"{folder}: a folder without images ({', '.join(SUFFIXES)})")
    above = folder if folder.is_dir() else folder.parent
    items = [picture_item(read_rgb(path), os.path.relpath(path, above)) for path in found[:limit]]
    heading = f"{len(found):,} images" + f", the first {limit} are shown" * (len(found) > limit)
    write_gallery(out, items, title=folder.name, heading=heading)
    return len(items)


def is_image(path: str | Path) -> bool:
    """Whether a path is that of an image, by its suffix."""
    return Path(path).suffix.lower() in SUFFIXES


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures uint8 (H, W, 3) as one, each as high as the highest."""
    height = max(len(picture) for picture in pictures)
    parts = []
    for picture in pictures:
        size = (max(1, round(picture.shape[1] * height / len(picture))), height)
        parts += [np.asarray(Image.fromarray(picture).resize(size)), np.full((height, GAP, 3), 255, np.uint8)]
    return np.concatenate(parts[:-1], axis=1)


def _show(record: Mapping[str, Any]) -> Item:
    source = str(record["file"])
    written = [str(path) for path in record.get("files") or ()]
    title, note = Path(source).name, _describe(record)
    pictures = [read_rgb(path) for path in [source, *written] if is_image(path)]
    if is_image(source):
        return picture_item(side_by_side(pictures), title, note)
    for path in written:
        if path.endswith(".npz"):
            with np.load(path, allow_pickle=False) as file:
                if {"points", "part"} <= set(file.files):
                    return _show_cloud(file["points"], title, note, part=file["part"])
    if pictures:
        return picture_item(side_by_side(pictures), title, note)
    try:
        cloud = read_points(source)
    except (OSError, ValueError):  # a video, a text
        return text_item(json.dumps(_rest(record), indent=1, ensure_ascii=False, default=str), title, note)
    return _show_cloud(cloud.points, title, note, normals=cloud.normals, up=cloud.up or "z")


def _show_cloud(points, title: str, note: str, *, normals=None, part=None, up: str = "z") -> Item:
    from pointsuite.visualization.scene import point_colors, upright

    points, normals = upright(points, up), upright(normals, up)
    colors = point_colors(None if part is None else "part", points, normals, part)
    return cloud_item(points, colors, title, note)


def _rest(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("file", "files")}


def _describe(record: Mapping[str, Any]) -> str:
    probabilities = record.get("probabilities")
    if isinstance(probabilities, Mapping):
        best = sorted(probabilities.items(), key=lambda pair: -pair[1])[:TOP]
        return ", ".join(f"{name} {100 * value:.1f} %" for name, value in best)
    text = json.dumps(_rest(record), ensure_ascii=False, default=str)[1:-1]
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"
