"""How much do the boxes of an image say of each other? The macroscopic correlation of annotations.

Relation-DETR (Hou et al., ECCV 2024) argues for its relation by a number for each image between 0, no
position correlation, and 1, a linear one, made of Pearson's correlation of boxes. The definition here is our
reading of that: the paper's own formula may differ, so compare numbers of this module with each other only.

    r_ij = Pearson's correlation of boxes i and j: centre x, centre y, width and height in pixels
    m_i  = mean of |r_ij| over the other boxes j of the image         microscopic, of an object
    MC   = mean of m_i over the boxes of the image                    macroscopic, of an image

Of four numbers correlation is high by chance, the more so as centres are usually larger than sizes. So each
statistic comes with a reference: the same after all boxes were dealt anew to the images, as many to each.
"""

import os
from typing import NamedTuple

import numpy as np

from pointsuite.engine.files import FileError

from ..base.coco import read_coco

MOST_PAIRS = 1 << 20  # computed at once: 8 MB


class Boxes(NamedTuple):
    """Boxes of a data set, those of an image side by side.

    Args:
        boxes: (N, 4) float64, centre x, centre y, width and height in pixels.
        labels: (N,) int64, places in ``classes``.
        counts: (images,) int64, boxes of each image; sums to N.
        classes: names.
    """

    boxes: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    classes: tuple[str, ...]


class Correlation(NamedTuple):
    """Of objects that are not alone in their image.

    Args:
        image: (I,) float64, the macroscopic correlation of each image of two boxes or more.
        mean, strongest: (M,) float64, mean and maximum of |r| between an object and the others of its image.
        labels: (M,) int64.
    """

    image: np.ndarray
    mean: np.ndarray
    strongest: np.ndarray
    labels: np.ndarray


def read_coco_boxes(path: str | os.PathLike) -> Boxes:
    """Boxes of annotations in COCO's format, but crowds, ``ignore`` and what is not wider and higher than 0.

    Raises:
        FileError: see :func:`~dense.base.coco.read_coco`; or there are no annotations.
    """
    data = read_coco(path)
    if "annotations" not in data:
        raise FileError(path, "has no annotations, wanted a list of them")
    places = {image["id"]: place for place, image in enumerate(data["images"])}
    categories = {category["id"]: place for place, category in enumerate(data["categories"])}
    kept = [a for a in data["annotations"] if "bbox" in a and not (a.get("iscrowd") or a.get("ignore"))]
    images = np.array([places[a["image_id"]] for a in kept], np.int64)
    labels = np.array([categories[a["category_id"]] for a in kept], np.int64)
    boxes = np.array([a["bbox"] for a in kept], np.float64).reshape(len(kept), 4)
    classes = tuple(category["name"] for category in data["categories"])
    real = (boxes[:, 2:] > 0).all(1)
    order = np.flatnonzero(real)[np.argsort(images[real], kind="stable")]
    boxes = boxes[order]
    boxes[:, :2] += boxes[:, 2:] / 2
    return Boxes(boxes, labels[order], np.bincount(images[order], minlength=len(places)), classes)


def pearson(boxes: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the four numbers of boxes (..., n, 4), pair by pair: (..., n, n).

    A box whose four numbers are equal has none: 0.
    """
    centred = boxes - boxes.mean(-1, keepdims=True)
    norms = np.linalg.norm(centred, axis=-1, keepdims=True)
    unit = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 1e-9)
    return np.clip(unit @ unit.swapaxes(-1, -2), -1, 1)


def correlate(data: Boxes) -> Correlation:
    """Microscopic and macroscopic correlation; images with equally many boxes are computed at once."""
    starts = np.cumsum(data.counts) - data.counts
    mean, strongest = np.full((2, len(data.boxes)), np.nan)
    image = np.full(len(data.counts), np.nan)
    for count in np.unique(data.counts[data.counts > 1]):
        chosen = np.flatnonzero(data.counts == count)
        others = ~np.eye(count, dtype=bool)
        for part in np.array_split(chosen, -(-len(chosen) * count**2 // MOST_PAIRS)):
            index = starts[part, None] + np.arange(count)  # (images, count)
            strength = np.abs(pearson(data.boxes[index])) * others
            mean[index] = strength.sum(-1) / (count - 1)
            strongest[index] = strength.max(-1)
            image[part] = mean[index].mean(-1)
    found = ~np.isnan(mean)
    return Correlation(image[~np.isnan(image)], mean[found], strongest[found], data.labels[found])


def deal_anew(data: Boxes, seed: int = 0) -> Boxes:
    """The same boxes in random images, as many in each as before."""
    order = np.random.default_rng(seed).permutation(len(data.boxes))
    return data._replace(boxes=data.boxes[order], labels=data.labels[order])


def summarise(found: Correlation, classes: int) -> np.ndarray:
    """Means (classes + 2, 2): a row for each class, one for all objects, one for all images (MC).

    The columns are of ``mean`` and of ``strongest``; NaN where there is nothing, as in the last of them.
    """
    rows = np.full((classes + 2, 2), np.nan)
    if len(found.mean):
        totals = np.bincount(found.labels, minlength=classes)
        for column, values in enumerate((found.mean, found.strongest)):
            sums = np.bincount(found.labels, values, classes)
            np.divide(sums, totals, out=rows[:classes, column], where=totals > 0)
            rows[classes, column] = values.mean()
        rows[-1, 0] = found.image.mean()
    return rows


def format_table(data: Boxes, found: Correlation, chance: np.ndarray) -> str:
    """Rows of :func:`summarise`, of classes that have objects which are not alone.

    Args:
        chance: (deals, classes + 2, 2), the same of :func:`deal_anew`; mean and standard deviation are shown.
    """
    paired = np.repeat(data.counts > 1, data.counts)
    places = np.repeat(np.arange(len(data.counts)), data.counts)[paired]
    images = [len(np.unique(places[found.labels == i])) for i in range(len(data.classes))]
    objects = np.bincount(found.labels, minlength=len(data.classes)).tolist()
    names = [*data.classes, "all objects", "all images (MC)"]
    images += [len(found.image)] * 2
    objects += [len(found.mean)] * 2
    rows = [("class", "images", "objects", "mean |r|", "by chance", "strongest", "by chance")]
    for i, means in enumerate(summarise(found, len(data.classes))):
        if objects[i] or i >= len(data.classes):
            cells = [text for j in range(2) for text in (_show(means[j : j + 1]), _show(chance[:, i, j]))]
            rows.append((names[i], f"{images[i]:,}", f"{objects[i]:,}", *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _show(values: np.ndarray) -> str:
    """One number, or mean and standard deviation of several; nothing where there are none."""
    values = values[~np.isnan(values)]
    spread = f" ± {values.std():.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread}" if len(values) else "-"
