"""Contact sheets: many shapes with their true and predicted classes, right and wrong ones told apart."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.figure import Figure

from pointsuite.visualization.cloud import disc_sizes, draw_discs
from pointsuite.visualization.png import write_png
from pointsuite.visualization.scene import RIGHT, WRONG, make_scene, upright

_DPI = 128  # a power of two: sizes in inches and back give whole pixels
_TILE, _GAP, _CAPTION, _HEADING, _LINE = 180, 8, 36, 48, 16  # pixels
_LETTERS = 22  # of a line below a tile


def draw_grid(
    clouds: Sequence[np.ndarray],
    titles: Sequence[str],
    correct: Sequence[bool],
    out: str | Path,
    *,
    heading: str = "",
    columns: int | None = None,
    up: str = "z",
) -> Path:
    """Draws one shaded shape a tile: blue where `correct`, vermilion where not, with its title below.

    Args:
        clouds: each (N, 3), or (N, 6) with unit normals, which shade better than estimated ones.
        titles: such as "relay -> crystal"; one that is too long for a line breaks, first before its arrow.
        correct: one truth value a cloud.
        out: a .png file.
        heading: a line above the grid.
        columns: of tiles; by default about three columns to two rows.
        up: the axis of the clouds that points up in the pictures.
    Raises:
        ValueError: no clouds, or titles or correct are not as many.
    """
    if not len(clouds) or not len(clouds) == len(titles) == len(correct):
        raise ValueError(
            f"found {len(clouds)} clouds, {len(titles)} titles and {len(correct)} truth values, "
            "wanted as many of each, at least 1"
        )
    columns = columns or min(len(clouds), int(np.ceil(np.sqrt(1.5 * len(clouds)))))
    rows = -(-len(clouds) // columns)
    captions = [_break(title) for title in titles]
    caption = max(_CAPTION, _LINE * max(text.count("\n") + 1 for text in captions))
    width = columns * _TILE
    height = rows * (_TILE + caption) + _HEADING
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    figure.text(0.5, 1 - _HEADING / 2 / height, heading, ha="center", va="center", fontsize=10)
    for i, (cloud, title, right) in enumerate(zip(clouds, captions, correct, strict=True)):
        cloud = np.asarray(cloud)
        color = RIGHT if right else WRONG
        row, column = divmod(i, columns)
        top = height - _HEADING - row * (_TILE + caption)
        left, side = column * _TILE + _GAP, _TILE - 2 * _GAP
        box = (left / width, (top - _TILE + _GAP) / height, side / width, side / height)
        normals = upright(cloud[:, 3:6], up) if cloud.shape[1] >= 6 else None
        scene = make_scene(
            upright(cloud[:, :3], up), np.broadcast_to(_bright(color), (len(cloud), 3)), normals
        )
        draw_discs(figure.add_axes(box), scene, disc_sizes(scene, side))
        middle = (column + 0.5) * _TILE / width
        figure.text(middle, (top - _TILE) / height, title, ha="center", va="top", fontsize=6.2, color=color)
    return write_png(figure, out)


def _break(title: str) -> str:
    if len(title) > _LETTERS:
        title = title.replace(" -> ", "\n-> ", 1)
    return "\n".join(piece for line in title.split("\n") for piece in wrap(line, _LETTERS) or [""])


def _bright(color: np.ndarray) -> np.ndarray:
    return 0.25 + 0.75 * color  # shading darkens it again
