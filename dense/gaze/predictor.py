"""A picture in, a scanpath out."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from pointsuite.engine.images import SUFFIXES, read_rgb, to_colour
from pointsuite.engine.predictor import add_suffix

from ..base import Predictor
from ..base.captions import write_image
from .model import ScanpathModel
from .transforms import CutObjects, PackScanpaths
from .visualization import draw_scanpath

Picture = str | os.PathLike | np.ndarray


class Scanpath(NamedTuple):
    """Where a model looks in a picture, in order."""

    objects: np.ndarray  # int64 (n,), row by row from 0
    points: np.ndarray  # float32 (n, 2): x, y of their middles in pixels


class ScanpathPredictor(Predictor):
    """Predicts how somebody looks at a picture of objects in a grid, with the network of a config.

    Args:
        config, checkpoint, device, weights, batch_size, progress: see
            :class:`~pointsuite.engine.predictor.Predictor`; the model of a run is a
            :class:`~dense.gaze.model.ScanpathModel`.
        size: height and width of the objects' pictures; by default what the run's test data have, of a bare
            network what it takes.

    Example:
        >>> look = ScanpathPredictor("configs/oat/oat-small_osie.py", "work_dirs/oat-small_osie")
        >>> look("photograph.jpg").points  # doctest: +SKIP
        >>> paths = look("photograph.jpg", num_paths=15)  # doctest: +SKIP
    """

    suffixes = SUFFIXES

    def __init__(
        self,
        config: Config | nn.Module | str | os.PathLike,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        weights: str | os.PathLike | None = None,
        size: Sequence[int] | None = None,
        batch_size: int = 1,
        progress: bool | None = None,
    ):
        super().__init__(
            config, checkpoint, device, weights=weights, batch_size=batch_size, progress=progress
        )
        if not isinstance(self.model, ScanpathModel):
            self.model = ScanpathModel(self.model).to(self.device).eval()
        if size is None:
            steps = self.test_pipeline(str(self.checkpoint))
            sizes = [step["size"] for step in steps if step["type"].endswith("CutObjects")]
            size = sizes[-1] if sizes else self.model.network.picture_size
        self.cut = CutObjects(self.model.network.grid, size)

    def __call__(
        self,
        picture: Picture | Sequence[Picture],
        target: int | None = None,
        num_paths: int | None = None,
        out: str | os.PathLike | None = None,
    ) -> "Scanpath | list[Scanpath] | list[list[Scanpath]]":
        """Look at a picture, or at each of many.

        Args:
            picture: a file or an array, red, green, blue; a list of them or a folder for many.
            target: number of the object that is searched for; None where the network was trained without.
            num_paths: that are drawn; 0 for the likeliest one, None for what the config says.
            out: picture to write the first path on, of a single picture.

        Returns:
            A scanpath; a list of them where ``num_paths`` are drawn; a list of either for many pictures.

        Raises:
            OSError: a picture cannot be read.
            ValueError: a target that the grid does not have, several pictures with one ``out``.
        """
        count = self.model.num_paths if num_paths is None else num_paths
        if count < 0:
            raise ValueError(f"num_paths must be at least 0, found {count}")
        if self.is_many(picture):
            if out is not None:
                raise ValueError(f"out is {out}, one file for several pictures, wanted a single picture")
            return list(self.iterate(self.expand(picture), target=target, num_paths=count))
        found = next(self.iterate([picture], target=target, num_paths=count))
        if out is not None:
            self._draw(picture, found[0] if count else found, out)
        return found

    def _draw(self, picture: Picture, path: Scanpath, out: str | os.PathLike) -> None:
        image, grid = self._read(picture), self.model.network.grid
        scale = max(1, -(-600 // image.shape[1]))
        write_image(str(out), draw_scanpath(image, path.points, grid=grid, scale=scale))

    def describe_answer(self, prediction: Scanpath | list[Scanpath]) -> tuple[str, dict[str, Any]]:
        paths = prediction if isinstance(prediction, list) else [prediction]
        line = " ".join(f"({x:.0f}, {y:.0f})" for x, y in paths[0].points)
        said = [{"objects": path.objects.tolist(), "points": path.points.tolist()} for path in paths]
        return line, {"paths": said}

    def write(self, source: str, prediction: Scanpath | list[Scanpath], stem: Path) -> list[Path]:
        """The first path on the picture, as ``.png``."""
        picture = add_suffix(stem, ".png")
        self._draw(source, prediction[0] if isinstance(prediction, list) else prediction, picture)
        return [picture]

    @torch.inference_mode()
    def predict(
        self, inputs: Sequence[Picture], target: int | None = None, num_paths: int = 0
    ) -> list[Scanpath] | list[list[Scanpath]]:
        """Scanpaths of a few pictures."""
        pack = PackScanpaths()
        packed = [pack(self.cut({"img": self._read(each), "target": target})) for each in inputs]
        before, self.model.num_paths = self.model.num_paths, num_paths
        try:
            samples = self.model.test_step(
                {key: [each[key] for each in packed] for key in ("inputs", "data_samples")}
            )
        finally:
            self.model.num_paths = before
        paths = [
            [
                Scanpath(path.cpu().numpy(), points.cpu().numpy())
                for path, points in zip(sample.pred_paths, sample.pred_points, strict=True)
            ]
            for sample in samples
        ]
        return paths if num_paths else [each[0] for each in paths]

    @staticmethod
    def _read(picture: Picture) -> np.ndarray:
        if isinstance(picture, np.ndarray):
            return to_colour(picture, "the picture")
        return read_rgb(picture)
