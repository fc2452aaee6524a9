"""Image files in, better ones out."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from pointsuite.engine.images import SUFFIXES, name_targets
from pointsuite.engine.predictor import Answer

from ..base import Predictor
from .degradations import imresize, to_float
from .images import WRITTEN, Picture, check_writable, read_image, write_image
from .model import ImageRestorer
from .tiling import restore

Source = str | os.PathLike | np.ndarray


class Restorer(Predictor):
    """Restores images of any size and kind, from file to file, from folder to folder, or as arrays.

    Grey stays grey, 16 bits stay 16 bits, transparency stays (enlarged by bicubic interpolation where the
    image grows); palettes become full colour, and what EXIF wants turned is turned. A grey image goes through
    a network of three channels as three equal ones, of whose results the mean is taken; a network of one
    channel restores each colour by itself.

    Memory: what the network needs for one tile of ``tile + 2 * overlap`` pixels to a side, whatever the size
    of the image, and at most 50 bytes for each pixel of the result.

    Args:
        config, checkpoint, device, weights, progress: see :class:`~pointsuite.engine.predictor.Predictor`;
            the model of a run is an :class:`~dense.restoration.model.ImageRestorer`.
        tile: side of a tile in pixels of the poor image; None takes images whole, in unbounded memory.
        overlap: pixels that a tile sees beyond its own on each side. Both are rounded up to multiples that
            the network takes.

    Example:
        >>> restorer = Restorer("configs/hat/hat-xs_srx2_t91.py", "work_dirs/hat-xs_srx2_t91")
        >>> restorer("small.png", "large.png")
        >>> restorer("small_ones", "large_ones")
        >>> restorer("small.png").pixels.shape
    """

    suffixes = SUFFIXES
    target = "target"

    def __init__(
        self,
        config: nn.Module | Config | str | os.PathLike,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        tile: int | None = 256,
        overlap: int = 32,
        *,
        weights: str | os.PathLike | None = None,
        progress: bool | None = None,
    ):
        super().__init__(config, checkpoint, device, weights=weights, progress=progress)
        self.network = self.model.network if isinstance(self.model, ImageRestorer) else self.model
        multiple = getattr(self.network, "multiple", 1)
        self.tile = tile and -(-tile // multiple) * multiple
        self.overlap = -(-overlap // multiple) * multiple

    def __call__(
        self, source: Source | Sequence[Source], target: str | os.PathLike | None = None
    ) -> Picture | list[Picture] | None:
        """Restore one image or many.

        Args:
            source: an image file, or an array (H, W, 1 or 3) uint8 or uint16, red, green, blue; a folder, or
                a list or tuple of these, for many.
            target: file to write, of the kind that its suffix says; for many a folder, in which files keep
                their names (those of a kind that is not written become ``.png``; arrays are numbered). A file
                is written whole or not at all.

        Returns:
            Without ``target`` the restored picture, with levels of the same type; a list for many.

        Raises:
            OSError: a file cannot be read, or written, or its kind cannot hold what the image holds (16 bits,
                transparency).
            ValueError: an array of another shape or type; two images that would get one name.
        """
        if not self.is_many(source):
            return next(self.iterate([(source, target)]))
        sources = self.expand(source)
        if target is None:
            return list(self.iterate([(one, None) for one in sources]))
        for _ in self.iterate(list(zip(sources, _name_targets(sources, target), strict=True))):
            pass

    def answer(self, files: Sequence[str], out: str | os.PathLike | None = None) -> Iterator[Answer]:
        """Restore image files and folders of them; ``out`` is a folder or, of one image, a file."""
        if out is None:
            raise ValueError("found no place for restored images, wanted a folder, or a file for one image")
        sources = self.gather(files)
        single = len(sources) == 1 and Path(out).suffix.lower() in WRITTEN
        targets = [Path(out)] if single else _name_targets(sources, out)
        done = self.start_bar(len(sources))
        for source, target in zip(sources, targets, strict=True):
            self(source, target)
            done()
            line = f"x{getattr(self.network, 'scale', 1)}"
            yield Answer(source, line, {"file": source, "restored": str(target)}, [target])

    def predict(self, inputs: Sequence[tuple[Source, str | os.PathLike | None]]) -> Iterator[Picture | None]:
        """Restored pictures of sources without a target; the others are written."""
        for source, target in inputs:
            picture = Picture(source) if isinstance(source, np.ndarray) else read_image(source)
            if target is not None:
                check_writable(target, picture)  # before the work
            restored = self.restore(picture)
            if target is None:
                yield restored
            else:
                write_image(target, restored)
                yield None

    def restore(self, picture: Picture) -> Picture:
        """The restored picture, with levels of the same type."""
        pixels = self.restore_pixels(picture.pixels)
        alpha = picture.alpha
        if alpha is not None and alpha.shape != pixels.shape[:2]:
            alpha = _to_levels(imresize(to_float(alpha), size=pixels.shape[:2]), alpha.dtype)
        return Picture(pixels, alpha, picture.icc_profile)

    @torch.inference_mode()
    def restore_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 1 or 3) uint8 or uint16 to (scale * H, scale * W, same) of the same type."""
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"pixels must be (H, W, 1 or 3) uint8 or uint16, found {pixels.shape} {pixels.dtype}"
            )
        image = torch.from_numpy(to_float(pixels)).permute(2, 0, 1)[None].to(self.device)  # (1, C, H, W)
        wanted, found = getattr(self.network, "in_channels", 3), image.shape[1]
        if wanted == 1:
            image = image.transpose(0, 1)  # (C, 1, H, W)
        elif found == 1:
            image = image.expand(-1, 3, -1, -1)
        result = [restore(self.network, one[None], self.tile, self.overlap)[0] for one in image]
        result = torch.cat(result) if wanted == 1 else result[0]  # (C, scale * H, scale * W)
        if wanted == 3 and found == 1:
            result = result.mean(0, keepdim=True)
        return _to_levels(result.permute(1, 2, 0).float().cpu().numpy(), pixels.dtype)


def _name_targets(sources: Sequence[Source], folder: str | os.PathLike) -> list[Path]:
    """See :func:`~pointsuite.engine.images.name_targets`; ValueError where one is its own source."""
    targets = name_targets(sources, folder, tuple(WRITTEN))
    for one, written in zip(sources, targets, strict=True):
        if not isinstance(one, np.ndarray) and written.resolve() == Path(one).resolve():
            raise ValueError(f"{one} would be written over, wanted another folder than its own")
    return targets


def _to_levels(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Levels of numbers in 0..1, which are overwritten: whole images are large."""
    np.clip(image, 0, 1, out=image)
    image *= np.iinfo(dtype).max
    return np.rint(image, out=image).astype(dtype)
