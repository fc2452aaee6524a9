"""One cloud as a picture: by Open3D where it can draw, by Matplotlib elsewhere."""

import functools
import logging
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from pointsuite.visualization import open3d_backend
from pointsuite.visualization.png import write_png
from pointsuite.visualization.scene import MARGIN, Scene, make_scene, point_colors, upright

logger = logging.getLogger(__name__)
_DPI = 128  # a power of two: sizes in inches and back give whole pixels


def draw_cloud(
    points: np.ndarray,
    colors: np.ndarray | str | None = None,
    out: str | Path | None = None,
    *,
    normals: np.ndarray | None = None,
    part: np.ndarray | None = None,
    size: tuple[int, int] = (960, 720),
    point_size: float | None = None,
    background: tuple[float, float, float] = (1, 1, 1),
    up: str = "z",
) -> np.ndarray:
    """Draws a cloud, seen from above at an angle, shaded by its normals.

    Args:
        points: (N, 3), finite.
        colors: (N, 3) in 0..1, or "normals", "height", "part"; None is "normals" where given, else "height".
        out: a .png file to write, too.
        normals: (N, 3) of unit length; without them the shading estimates its own.
        part: int (N,), for colors="part".
        size: width and height in pixels.
        point_size: in pixels; None covers the surface.
        background: red, green and blue in 0..1.
        up: the axis that points up in the picture.
    Returns:
        uint8 (height, width, 3).
    Raises:
        ValueError: points or colors of a wrong shape, not finite, or by what the cloud does not have.
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
        raise ValueError(f"points are {points.dtype} {points.shape}, wanted finite numbers (N, 3), N >= 1")
    if min(size) < 1:
        raise ValueError(f"the picture is {size[0]} x {size[1]} pixels, wanted at least 1 x 1")
    points, normals = upright(points, up), upright(normals, up)
    scene = make_scene(points, point_colors(colors, points, normals, part), normals, size[0] / size[1])
    if point_size is None:
        diameter = disc_sizes(scene, size[1])
    else:
        diameter = np.full(len(points), float(point_size))
    why_not = open3d_backend.why_not()
    if why_not is None:
        try:
            image = open3d_backend.picture(scene, size, diameter, background)
        except RuntimeError as error:
            why_not = str(error)
    if why_not is not None:
        _say_once(f"Open3D cannot draw here, Matplotlib does instead ({why_not})")
        image = _matplotlib_picture(scene, size, diameter, background)
    if out is not None:
        write_png(image, out)
    return image


def show_cloud(
    points, colors=None, *, normals=None, part=None, up: str = "z", title: str = "pointsuite"
) -> None:
    """Opens an Open3D window and returns when it is closed; RuntimeError where there is no screen."""
    points, normals = upright(points, up), upright(normals, up)
    colors = point_colors(colors, points, normals, part)
    if not open3d_backend.has_screen():
        raise RuntimeError("found no screen to open a window on, wanted one at DISPLAY or WAYLAND_DISPLAY")
    if why_not := open3d_backend.why_not():
        raise RuntimeError(f"Open3D cannot open a window: {why_not}")
    open3d_backend.show(points, colors, normals, title)


def disc_sizes(scene: Scene, height: int) -> np.ndarray:
    """Diameters (N,) in pixels at which the discs leave few holes in the surface."""
    return np.clip(2 * scene.reach * height / (2 * MARGIN), 2, 0.1 * height)


def draw_discs(axes: Axes, scene: Scene, diameter: np.ndarray, aspect: float = 1.0) -> None:
    """The scene as discs in the surface, `diameter` pixels wide, far ones first, on axes of that aspect."""
    x, y, z = scene.normals.T
    points = 72 / axes.figure.dpi * diameter
    discs = EllipseCollection(
        points,
        points * z,  # foreshortened along the normal
        np.degrees(np.arctan2(y, x)) + 90,
        units="points",
        offsets=scene.points[:, :2],
        offset_transform=axes.transData,
        facecolors=scene.colors,
        linewidths=0,
    )
    axes.add_collection(discs)
    axes.set(xlim=(-MARGIN * aspect, MARGIN * aspect), ylim=(-MARGIN, MARGIN))
    axes.set_axis_off()


def _matplotlib_picture(scene: Scene, size, diameter, background) -> np.ndarray:
    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI, facecolor=background)
    canvas = FigureCanvasAgg(figure)
    draw_discs(figure.add_axes((0, 0, 1, 1)), scene, diameter, size[0] / size[1])
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)
