"""Confusion matrices."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.figure import Figure

from pointsuite.visualization.png import write_png


def draw_confusion_matrix(
    matrix: np.ndarray, classes: Sequence[str], out: str | Path, *, heading: str = ""
) -> Path:
    """Draws counts, true classes down and predicted ones across, each row coloured by its shares.

    Args:
        matrix: int (C, C), [true, predicted], none negative.
        classes: their C names.
        out: a .png file.
        heading: a line above the picture.
    Raises:
        ValueError: the matrix is not square, has negative entries or not one row a class.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(classes), len(classes)) or not len(classes) or matrix.min() < 0:
        raise ValueError(
            f"found a confusion matrix {matrix.shape} for {len(classes)} classes, "
            f"wanted counts ({len(classes)}, {len(classes)}), at least one class and none negative"
        )
    total = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(total, 1)
    side = max(0.52 * len(classes), 1.6)
    figure = Figure(figsize=(side, side), dpi=100)  # grows by the names around it when it is written
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the true class")
    ticks = np.arange(len(classes))
    axes.set_xticks(ticks, classes, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(ticks, classes, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true", title="\n".join(wrap(heading, 50)))
    for row, column in np.argwhere(matrix > 0):
        color = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center", fontsize=8, color=color)
    return write_png(figure, out, fit=True)
