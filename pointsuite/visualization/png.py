"""Pictures on disk: whole or not at all."""

from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

from pointsuite.engine.checkpoint import atomic_write


def write_png(picture: Figure | np.ndarray, out: str | Path, *, fit: bool = False) -> Path:
    """Writes a figure or an image (H, W, 3) uint8; parent folders are made, the file appears complete.

    With `fit` the picture is as large as what is drawn in the figure, so that nothing is cut off.

    Raises ValueError where `out` does not end in .png, OSError where it cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"{out}: found the suffix {out.suffix!r} of a picture to write, wanted .png")
    with atomic_write(out) as file:
        if isinstance(picture, Figure):
            picture.savefig(file, format="png", bbox_inches="tight" if fit else None)
        else:
            matplotlib.image.imsave(file, picture, format="png")
    return out
