"""Maps of what counts over the pictures that they are of."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from pointsuite.engine.checkpoint import atomic_write

from ..classification.visualization import draw_heat


def draw_maps(
    rows: Sequence[tuple[str, np.ndarray, Mapping[str, ArrayLike], ArrayLike]],
    out: str | os.PathLike,
    columns: int = 7,
) -> Path:
    """A picture and maps over it side by side, a cross at each map's maximum; pictures below each other.

    Args:
        rows: of each picture its title, the image uint8 (H, W, 3), maps (H, W) by their titles, and boxes
            (n, 4) (left, top, right, bottom) that are drawn in green, none for none.
        out: picture to write (.png, .pdf, .svg).
        columns: panels side by side, at most.

    Raises:
        ValueError: nothing to draw, or a map of another size.
    """
    panels: list[list] = []
    for title, image, maps, boxes in rows:
        if image.ndim != 3 or not maps:
            raise ValueError(
                f"{title}: found an image {image.shape} and {len(maps)} maps, wanted (H, W, 3) and some"
            )
        cells = [(title, image, None, boxes)]
        for name, values in maps.items():
            values = np.asarray(values, np.float32)
            if values.shape != image.shape[:2]:
                raise ValueError(f"{name}: found a map {values.shape}, wanted {image.shape[:2]}")
            cells.append((name, image, values, boxes))
        panels += [cells[i : i + columns] for i in range(0, len(cells), columns)]
    if not panels:
        raise ValueError("found no picture, wanted some")
    width = max(map(len, panels))
    figure = Figure((2.1 * width, 2.35 * len(panels)), dpi=110, layout="constrained")
    grid = figure.subplots(len(panels), width, squeeze=False)
    for axes, cells in zip(grid, panels, strict=True):
        for ax in axes:
            ax.axis("off")
        for ax, (title, image, values, boxes) in zip(axes, cells, strict=False):
            height, wide = image.shape[:2]
            shown = image if values is None else draw_heat(image, values)
            ax.imshow(shown, extent=(0, wide, height, 0))
            ax.set_title(title, fontsize=8)
            for left, top, right, bottom in np.reshape(boxes, (-1, 4)):
                ax.add_patch(
                    Rectangle((left, top), right - left, bottom - top, fill=False, ec="lime", lw=1.5)
                )
            if values is not None:
                y, x = np.unravel_index(values.argmax(), values.shape)
                ax.plot(x + 0.5, y + 0.5, "x", color="white", markersize=7, markeredgewidth=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(out).suffix.removeprefix(".") or "png")
    with atomic_write(out) as file:
        file.write(buffer.getvalue())
    return Path(out)
