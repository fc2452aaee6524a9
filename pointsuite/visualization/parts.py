"""Contact sheets of parts: each shape twice, with its true parts and with the predicted ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pointsuite.visualization.cloud import disc_sizes, draw_discs
from pointsuite.visualization.png import write_png
from pointsuite.visualization.scene import make_scene, point_colors, upright

_DPI = 128  # a power of two: sizes in inches and back give whole pixels
_TILE, _GAP, _CAPTION, _HEADING = 180, 8, 24, 60  # pixels
_LINE, _LETTER, _PATCH = 14, 6, 50  # pixels of a line of the legend, of a letter, of all else of an entry


def draw_parts(
    clouds: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    prediction: Sequence[np.ndarray],
    titles: Sequence[str],
    out: str | Path,
    *,
    part_classes: Sequence[str] = (),
    heading: str = "",
    columns: int | None = None,
    up: str = "z",
) -> Path:
    """Draws each shape as a pair, the true parts on the left and the predicted ones on the right.

    Args:
        clouds: each (N, 3), or (N, 6) with unit normals, which shade better than estimated ones.
        truth, prediction: integers (N,) of each cloud, coloured as by `draw_cloud(colors="part")`.
        titles: one below each pair.
        out: a .png file.
        part_classes: names for the legend.
        heading: a line above the grid.
        columns: of pairs; by default about as many pairs side by side as makes the grid square.
        up: the axis of the clouds that points up in the pictures.
    Raises:
        ValueError: no clouds, or another argument is not as long.
    """
    counts = [len(clouds), len(truth), len(prediction), len(titles)]
    if min(counts) < 1 or len(set(counts)) > 1:
        raise ValueError(
            "found {} clouds, {} true parts, {} predictions and {} titles, "
            "wanted as many of each, at least 1".format(*counts)
        )
    columns = columns or int(np.ceil(np.sqrt(len(clouds) / 2)))
    width = 2 * columns * _TILE
    letters = max((len(str(name)) for name in part_classes), default=0)
    across = max(1, min(len(part_classes), width // (_LETTER * letters + _PATCH)))
    lines = max(-(-len(part_classes) // across), 1)
    top_strip = _HEADING + _LINE * (lines - 1)
    height = -(-len(clouds) // columns) * (_TILE + _CAPTION) + top_strip
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    figure.text(0.5, 1 - _HEADING / 4 / height, heading, ha="center", va="center", fontsize=9)
    colors = point_colors("part", None, part=np.arange(len(part_classes)))
    patches = [Patch(color=color, label=name) for color, name in zip(colors, part_classes, strict=True)]
    if patches:
        options = {"loc": "upper center", "ncols": across, "fontsize": 6, "frameon": False}
        figure.legend(handles=patches, bbox_to_anchor=(0.5, 1 - 0.45 * _HEADING / height), **options)
    for i, (cloud, *parts, title) in enumerate(zip(clouds, truth, prediction, titles, strict=True)):
        cloud = np.asarray(cloud)
        normals = upright(cloud[:, 3:6], up) if cloud.shape[1] >= 6 else None
        row, column = divmod(i, columns)
        top = height - top_strip - row * (_TILE + _CAPTION)
        side = _TILE - 2 * _GAP
        for half, part in enumerate(parts):
            left = (2 * column + half) * _TILE + _GAP
            box = (left / width, (top - _TILE + _GAP) / height, side / width, side / height)
            scene = make_scene(upright(cloud[:, :3], up), point_colors("part", cloud, part=part), normals)
            draw_discs(figure.add_axes(box), scene, disc_sizes(scene, side))
        middle = (2 * column + 1) * _TILE / width
        figure.text(middle, (top - _TILE) / height, title, ha="center", va="top", fontsize=6.2)
        for word, align, x in (("true", "left", _GAP), ("predicted", "right", 2 * _TILE - _GAP)):
            x = (2 * column * _TILE + x) / width
            figure.text(x, (top - _TILE) / height, word, ha=align, va="top", fontsize=5.5, color="gray")
    return write_png(figure, out)
