"""Scanpaths drawn over the picture: numbered circles, larger where a fixation is longer."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.visualization import Visualizer
from PIL import Image, ImageDraw, ImageFont

from pointsuite.engine.images import open_image, to_rgb, upright

from ..base.captions import add_captions
from ..registry import VISUALIZERS
from .sample import ScanpathDataSample
from .transforms import assemble, cell_centres

FIRST, LAST = np.array((255, 220, 60)), np.array((220, 40, 60))  # colours of fixations, early and late
USUAL = 250.0  # ms, of a fixation whose duration is not known
Color = tuple[int, int, int]


def draw_scanpath(
    image: np.ndarray,
    points: np.ndarray,
    durations: np.ndarray | None = None,
    *,
    grid: Sequence[int] | None = None,
    scale: int = 1,
) -> np.ndarray:
    """Fixations as circles, numbered from 1, yellow first and red last, with lines between them.

    Fixations of the very same place, as a network's on one object, are drawn around it.

    Args:
        image: uint8 (H, W, 3).
        points: (n, 2), x and y in its pixels.
        durations: (n,) in ms; a circle's area grows with them. Without them all are as large.
        grid: rows and columns of objects, whose borders are drawn thin.
        scale: whole number by which the picture is enlarged before.

    Returns:
        uint8 (scale H, scale W, 3).

    Raises:
        ValueError: shapes that do not fit.
    """
    points = np.asarray(points, float).reshape(-1, 2)
    if durations is not None and np.shape(durations) != points.shape[:1]:
        raise ValueError(f"durations must be ({len(points)},), found {np.shape(durations)}")
    times = np.full(len(points), USUAL) if durations is None else np.asarray(durations, float)
    picture = Image.fromarray(image)
    picture = picture.resize((scale * picture.width, scale * picture.height))
    draw = ImageDraw.Draw(picture, "RGBA")
    if grid is not None:
        for count, size, upright_line in ((grid[1], picture.width, True), (grid[0], picture.height, False)):
            for place in np.linspace(0, size, count + 1)[1:-1].round():
                ends = (
                    ((place, 0), (place, picture.height))
                    if upright_line
                    else ((0, place), (picture.width, place))
                )
                draw.line(ends, fill=(255, 255, 255, 70))
    places = [tuple(place) for place in spread(scale * points, picture.width / 45)]
    draw.line(places, fill=(255, 255, 255, 200), width=max(1, picture.width // 300))
    for i, (place, time) in enumerate(zip(places, times, strict=True)):
        radius = picture.width / 40 * np.sqrt(max(time, 40.0) / USUAL)
        color = tuple((FIRST + (LAST - FIRST) * i / max(len(places) - 1, 1)).round().astype(int).tolist())
        box = (place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius)
        draw.ellipse(box, fill=(*color, 190), outline=(20, 20, 20, 255))
        font = ImageFont.load_default(max(8, round(picture.width / 45)))
        draw.text(place, str(i + 1), (20, 20, 20), font, anchor="mm")
    return np.asarray(picture)


def spread(points: np.ndarray, step: float) -> np.ndarray:
    """Points (n, 2) of which those at one place lie around it, six to a ring: none is hidden by another."""
    found = points.copy()
    for i, point in enumerate(points):
        before = int((points[:i] == point).all(1).sum())
        if before:
            ring, turn = 1 + (before - 1) // 6, np.pi * (before - 1) / 3
            found[i] += ring * step * np.array((np.cos(turn), np.sin(turn)))
    return found


@VISUALIZERS.register_module()
class ScanpathVisualizer(Visualizer):
    """The path of one person beside a predicted one, over the photograph.

    Args:
        name: of the visualizer.
        person, path: which of the people's and of the predicted paths are drawn.
        least: pixels of a picture's width; smaller ones are enlarged.
        **kwargs: of MMEngine's ``Visualizer``.
    """

    def __init__(self, name: str = "visualizer", person: int = 0, path: int = 0, least: int = 600, **kwargs):
        super().__init__(name, **kwargs)
        self.person, self.path, self.least = person, path, least

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: ScanpathDataSample,
        draw_gt: bool = True,
        draw_pred: bool = True,
        step: int = 0,
        **_,
    ) -> None:
        """See MMEngine.

        Args:
            name: of the picture.
            image: the objects side by side, uint8 (h, K w, 3): drawn on where there is no ``img_path``.
            data_sample: with paths of people, predicted ones, or both.
        """
        picture = self._find_picture(image, data_sample)
        scale = max(1, -(-self.least // picture.shape[1]))
        sides, headings, timed = [], [], False
        for wanted, side, number, what in (
            (draw_gt, "gt", self.person, "person"),
            (draw_pred, "pred", self.path, "prediction"),
        ):
            if not wanted or f"{side}_paths" not in data_sample:
                continue
            paths = data_sample.get(f"{side}_paths")
            number = min(number, len(paths) - 1)
            size = picture.shape[1::-1]
            points = data_sample.get(f"{side}_points")
            points = cell_centres(paths[number], data_sample.grid, size) if points is None else points[number]
            times = data_sample.get(f"{side}_durations")
            timed |= times is not None
            times = None if times is None else times[number].cpu().numpy()
            sides.append(
                draw_scanpath(picture, points.cpu().numpy(), times, grid=data_sample.grid, scale=scale)
            )
            headings.append(f"{what} {number + 1} of {len(paths)}: {len(points)} fixations")
        if not sides:
            raise ValueError(f"{name}: has no path of a person and none that is predicted")
        legend = [("first fixation", tuple(FIRST.tolist())), ("last fixation", tuple(LAST.tolist()))]
        if timed:
            legend.append(("larger circles: longer fixations, where durations are known", None))
        picture = add_captions(np.concatenate(sides, 1), headings, legend)
        self.set_image(picture)
        self.add_image(name, picture, step)

    @staticmethod
    def _find_picture(image: np.ndarray, sample: ScanpathDataSample) -> np.ndarray:
        path = sample.get("img_path")
        if path is not None:
            return np.asarray(to_rgb(upright(open_image(path)), str(path)))
        rows, columns = sample.grid
        objects = np.stack(np.split(image, rows * columns, axis=1)).transpose(0, 3, 1, 2)
        return assemble(torch.from_numpy(objects), sample.grid).permute(1, 2, 0).contiguous().numpy()
