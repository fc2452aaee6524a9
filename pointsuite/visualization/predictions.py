"""What a classifier said about the shapes of a data set, as pictures."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from pointsuite.engine.files import FileError, read_bytes
from pointsuite.io import PointFileError, read_points
from pointsuite.io.arrays import load_npz, npz_names
from pointsuite.visualization.confusion import draw_confusion_matrix
from pointsuite.visualization.grid import draw_grid
from pointsuite.visualization.page import Exhibit, is_page, write_page


class Predictions(NamedTuple):
    index: np.ndarray  # int64 (M,): rows of the data set's split
    label: np.ndarray  # int64 (M,)
    prediction: np.ndarray  # int64 (M,)
    classes: list[str]


def read_predictions(path: str | Path) -> Predictions:
    """Reads an .npz file with the keys index, label, prediction (M,) and classes (C,).

    Raises PointFileError: one line with the file, what was found and what was wanted.
    """
    try:
        data = read_bytes(path, "predictions")
        names = npz_names(data)
        missing = [key for key in Predictions._fields if key not in names]
        arrays = [] if missing else list(load_npz(data, Predictions._fields).values())
    except FileError as error:
        raise PointFileError(str(error)) from None
    except PointFileError as error:
        raise PointFileError(f"{path}: {error}") from None
    if missing:
        raise PointFileError(
            f"{path}: found no {', '.join(missing)}, wanted {', '.join(Predictions._fields)}"
        )
    *numbers, classes = arrays
    for name, array in zip(Predictions._fields, numbers, strict=False):
        if (
            array.dtype.kind not in "iu"
            or array.ndim != 1
            or array.shape != numbers[0].shape
            or not array.size
        ):
            raise PointFileError(
                f"{path}: found {name} {array.dtype} {array.shape}, wanted whole numbers (M,), M >= 1"
            )
        top = len(classes) if name != "index" else np.inf
        if array.min() < 0 or array.max() >= top:
            raise PointFileError(
                f"{path}: found {name} {array.min()}..{array.max()}, wanted 0 and below {top}"
            )
    return Predictions(*(n.astype(np.int64) for n in numbers), [str(c) for c in classes])


def draw_predictions(
    dataset: str | Path,
    predictions: str | Path,
    out: str | Path | None = None,
    confusion: str | Path | None = None,
    *,
    split: str = "test",
    limit: int = 40,
    seed: int = 0,
) -> Predictions:
    """Draws `limit` shapes, chosen at random and not by how they came out, and the confusion matrix.

    Args:
        dataset: the HDF5 file (layout of this suite) that the predictions are about.
        predictions: see `read_predictions`.
        out, confusion: .png files for the grid and for the matrix; None leaves one out. An .html file as
            ``out`` shows all shapes of the grid one by one, to be turned.
    Raises:
        PointFileError: a file cannot be read right.
    """
    said = read_predictions(predictions)
    right = said.label == said.prediction
    score = f"{right.sum()} of {len(right)} right ({100 * right.mean():.1f} %)"
    if out is not None:
        shown = np.random.default_rng(seed).permutation(len(right))[:limit]
        clouds = [read_points(dataset, split=split, index=int(i)) for i in said.index[shown]]
        titles = [f"{said.classes[said.label[i]]} -> {said.classes[said.prediction[i]]}" for i in shown]
        heading = score if len(shown) == len(right) else f"{score}, {len(shown)} shown at random"
        draw = _write_page if is_page(out) else _draw_grid
        draw(clouds, titles, right[shown], out, heading)
    if confusion is not None:
        matrix = np.zeros((len(said.classes), len(said.classes)), np.int64)
        np.add.at(matrix, (said.label, said.prediction), 1)
        draw_confusion_matrix(matrix, said.classes, confusion, heading=score)
    return said


def _draw_grid(clouds, titles: list[str], right: np.ndarray, out: str | Path, heading: str) -> None:
    shapes = [c.points if c.normals is None else np.hstack([c.points, c.normals]) for c in clouds]
    draw_grid(shapes, titles, right, out, up=clouds[0].up, heading=heading)


def _write_page(clouds, titles: list[str], right: np.ndarray, out: str | Path, heading: str) -> None:
    exhibits = [
        Exhibit(cloud.points, title, normals=cloud.normals, up=cloud.up, right=good)
        for cloud, title, good in zip(clouds, titles, right, strict=True)
    ]
    write_page(out, exhibits, title="Predictions", heading=heading)
