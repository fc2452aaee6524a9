"""Two pictures in, what one shows found in the other."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate

from pointsuite.engine.checkpoint import atomic_write
from pointsuite.engine.images import SUFFIXES, read_rgb, to_colour
from pointsuite.engine.predictor import Answer, add_suffix, name_results

from ..base import Predictor
from ..base.captions import write_image
from .metrics import transfer_keypoints
from .model import DenseMatcher
from .transforms import ResizePair

Picture = str | os.PathLike | np.ndarray


class Match(NamedTuple):
    """Where the pixels of a target picture are in a source picture."""

    flow: np.ndarray  # float32 (H, W, 2): x and y in the source less those in the target, of its pixels
    confidence: np.ndarray  # float32 (H, W), 0 to 1
    points: np.ndarray  # float32 (n, 2): x, y in the source of the points that were asked for
    warped: np.ndarray  # uint8 (H, W, 3): what of the source lies at the target's pixels, black outside


class Matcher(Predictor):
    """Finds in one picture what another shows, with the network of a config.

    Pictures are files or arrays, red, green, blue (see :func:`~pointsuite.engine.images.to_colour`), of any
    sizes; the network gets them as squares. What is returned is in the pictures' own pixels.

    Args:
        config, checkpoint, device, weights, batch_size, progress: see
            :class:`~pointsuite.engine.predictor.Predictor`; the model of a run is a
            :class:`~dense.matching.model.DenseMatcher`.
        size: side of the squares; by default what the run's test data has.

    Example:
        >>> matcher = Matcher(
        ...     "configs/ufc/ufc-tiny_warps_pf-willow.py", "work_dirs/ufc-tiny_warps_pf-willow"
        ... )
        >>> match = matcher("source.jpg", "target.jpg", points=[[120, 80]])
        >>> match.points, match.warped.shape
        >>> matches = matcher([("a.jpg", "b.jpg"), ("c.jpg", "d.jpg", [[120, 80]])])
    """

    suffixes = SUFFIXES

    def __init__(
        self,
        config: Config | nn.Module | str | os.PathLike,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        weights: str | os.PathLike | None = None,
        size: int | None = None,
        batch_size: int = 1,
        progress: bool | None = None,
    ):
        super().__init__(
            config, checkpoint, device, weights=weights, batch_size=batch_size, progress=progress
        )
        if not isinstance(self.model, DenseMatcher):
            self.model = DenseMatcher(self.model).to(self.device).eval()
        if size is None:
            steps = self.test_pipeline(str(self.checkpoint))
            sizes = [step["size"] for step in steps if step["type"].endswith("ResizePair")]
            if not sizes:
                name = self.cfg.filename if self.cfg is not None else type(self.model.network).__name__
                raise ValueError(f"{name}: its test pipeline has no ResizePair, wanted one, or size=...")
            size = sizes[-1]
        self.resize = ResizePair(size)

    def __call__(
        self,
        source: Picture | Sequence[Picture] | Sequence[tuple],
        target: Picture | Sequence[Picture] | None = None,
        points: ArrayLike = (),
    ) -> Match | list[Match]:
        """Match one pair or many.

        Args:
            source: a picture, a folder or a list of them; or, without ``target``, a list of pairs
                (source, target) or (source, target, points).
            target: a picture, a folder or a list of them. Of two lists the pictures are matched in turn, a
                single picture with each of a list.
            points: (n, 2), x, y in the target's pixels, to look for in the source; of several targets, in
                each.

        Returns:
            A match; a list of them for many.

        Raises:
            OSError: a picture cannot be read.
            ValueError: a picture or points of the wrong shape, points outside of the target, or lists of
                unequal lengths.
        """
        if target is None:
            return list(self.iterate([_as_pair(pair, i) for i, pair in enumerate(source)]))
        many = self.is_many(source), self.is_many(target)
        if not any(many):
            return next(self.iterate([(source, target, points)]))
        sources, targets = (
            self.expand(side) if several else [side]
            for side, several in zip((source, target), many, strict=True)
        )
        count = max(len(sources), len(targets))
        if all(many) and len(sources) != len(targets):
            raise ValueError(f"found {len(sources)} sources and {len(targets)} targets, wanted as many")
        sources, targets = (
            side if several else side * count for side, several in zip((sources, targets), many, strict=True)
        )
        return list(self.iterate([(*pair, points) for pair in zip(sources, targets, strict=True)]))

    def answer(
        self, files: Sequence[str], out: str | os.PathLike | None = None, **options
    ) -> Iterator[Answer]:
        """Match the files in pairs, source and target, source and target, ...

        Written are ``flow`` and ``confidence`` as ``.npz`` and what of the source lies at the target's pixels
        as ``.png``.
        """
        if not files or len(files) % 2:
            raise ValueError(f"found {len(files)} pictures, wanted pairs: SOURCE TARGET ...")
        pairs = list(zip(files[::2], files[1::2], strict=True))
        stems = name_results([f"{Path(source).stem}-{Path(target).stem}" for source, target in pairs], out)
        for (source, target), stem in zip(pairs, stems, strict=True):
            found = self(source, target, **options)
            shift, sure = np.linalg.norm(found.flow, axis=-1).mean(), found.confidence.mean()
            record = {"file": target, "source": source, "confidence": float(sure), "shift": float(shift)}
            if len(found.points):
                record["points"] = found.points.tolist()
            written = []
            if stem is not None:
                written = [add_suffix(stem, ".npz"), add_suffix(stem, ".png")]
                with atomic_write(written[0]) as file:
                    np.savez_compressed(file, flow=found.flow, confidence=found.confidence)
                write_image(str(written[1]), found.warped)
            line = f"in {source}: mean shift {shift:.1f} pixels, mean confidence {sure:.2f}"
            yield Answer(target, line, record, written)

    @torch.inference_mode()
    def predict(self, inputs: Sequence[tuple[Picture, Picture, ArrayLike]]) -> list[Match]:
        """Matches of a few (source, target, points)."""
        read, stacked = [], []
        for source, target, points in inputs:
            images = {"source_img": _read(source, "the source"), "target_img": _read(target, "the target")}
            read.append((*images.values(), _check_points(points, images["target_img"].shape)))
            resized = self.resize(images)
            pair = np.stack([resized["source_img"], resized["target_img"]]).transpose(0, 3, 1, 2)
            stacked.append(torch.from_numpy(np.ascontiguousarray(pair)))
        samples = self.model.test_step({"inputs": stacked})
        return [
            self._enlarge(sample.pred_flow, sample.pred_confidence, *pictures)
            for sample, pictures in zip(samples, read, strict=True)
        ]

    def _enlarge(
        self, flow: Tensor, confidence: Tensor, source: np.ndarray, target: np.ndarray, points: np.ndarray
    ) -> Match:
        """From cells to pixels, and from squares to pictures: positions are shares of the sides."""
        (source_height, source_width), (height, width) = source.shape[:2], target.shape[:2]
        shares = interpolate(flow[None] / flow.shape[-1], (height, width), mode="bilinear")[0].movedim(0, -1)
        rows, columns = (torch.arange(n, device=flow.device) for n in (height, width))
        own = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).float()
        target_size = own.new_tensor((width, height))
        source_size = own.new_tensor((source_width, source_height))
        found = (own + 0.5) / target_size + shares  # (H, W, 2), 0 to 1 from edge to edge
        picture = torch.tensor(source).to(own).movedim(-1, 0)[None]
        warped = grid_sample(picture, 2 * found[None] - 1, align_corners=False)[0].movedim(0, -1)

        side = self.resize.size
        wanted = (torch.from_numpy(points).to(flow) + 0.5) / target_size
        unit = (transfer_keypoints(flow, wanted * side - 0.5, side) + 0.5) / side
        confidence = interpolate(confidence[None, None], (height, width), mode="bilinear")[0, 0]
        return Match(
            flow=(found * source_size - 0.5 - own).cpu().numpy(),
            confidence=confidence.clamp(0, 1).cpu().numpy(),
            points=(unit * source_size - 0.5).cpu().numpy(),
            warped=warped.round().clamp(0, 255).byte().cpu().numpy(),
        )


def _as_pair(pair: Any, number: int) -> tuple[Picture, Picture, ArrayLike]:
    if not isinstance(pair, list | tuple) or len(pair) not in (2, 3):
        raise ValueError(
            f"pair {number} is a {type(pair).__name__}, wanted (source, target) or (source, target, points)"
        )
    return (*pair, ()) if len(pair) == 2 else tuple(pair)


def _read(image: Picture, name: str) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return to_colour(image, name)
    return read_rgb(image)


def _check_points(points: ArrayLike, shape: Sequence[int]) -> np.ndarray:
    points = np.asarray(points, np.float32)
    if points.size == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points are {points.shape}, wanted (n, 2), x and y")
    height, width = shape[:2]
    outside = ~((points >= 0) & (points <= (width - 1, height - 1))).all(1)
    if outside.any():
        x, y = points[outside.argmax()]
        raise ValueError(
            f"a point is at ({x:g}, {y:g}), wanted it in the target of {width} x {height} pixels"
        )
    return points
