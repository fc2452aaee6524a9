"""Pairs of a poor and a good image, from folders or made on the fly.

A sample in a pipeline: ``gt`` and ``lq``, arrays (H, W, C) and (h, w, C), H = scale * h, uint8 or float32 in
0..1; and ``img_path``, ``dataset`` (the name of its folder) and ``sample_idx``.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pointsuite.engine.images import find_images

from ..base.datasets import SeededDataset
from ..registry import DATASETS
from .degradations import imresize, mod_crop, to_float
from .images import read_image


@DATASETS.register_module()
class RestorationDataset(SeededDataset):
    """Good images from folders; the poor ones from folders, too, or made of the good ones.

    A good image is cut at the bottom and on the right to multiples of ``scale``. The poor one is, without
    ``lq``, the good one made smaller by :func:`~dense.restoration.degradations.imresize`, or the good one
    itself for ``scale`` 1: then transforms of the pipeline (noise, JPEG) make it poor.

    Args:
        data_root: where the folders are.
        gt: folder of good images, or several; images may lie deeper.
        lq: folder of poor images for each in ``gt``. An image belongs to the good one of the same name
            (without suffix), or of the name followed by ``x<scale>``, as DIV2K has it, in the same
            sub-folder.
        scale: pixels of the good image to one of the poor, along each side.
        grey: read one channel (ITU-R 601 luma of colour images) in place of three.
        length: samples of an epoch; sample i is of image i modulo the number of images, which is the default.
        min_size: enlarge good images (bicubic) whose short side is smaller.
        quantize: round the poor image to 8 bits, as a file would. Otherwise it is float32.
        cache: keep all images in memory once they were read, in each worker process its own.
        **kwargs: of :class:`~dense.base.datasets.SeededDataset`: ``pipeline``, ``seed``,
            ``test_mode``, in which noise depends on (seed, index) alone.

    Raises:
        OSError: a folder or an image is missing, damaged or of the wrong size; the message names it.
    """

    def __init__(
        self,
        data_root: str | os.PathLike,
        gt: str | Sequence[str],
        lq: str | Sequence[str] | None = None,
        scale: int = 1,
        grey: bool = False,
        length: int | None = None,
        min_size: int | None = None,
        quantize: bool = True,
        cache: bool = False,
        **kwargs,
    ):
        self.gt = [gt] if isinstance(gt, str) else list(gt)
        self.lq = [lq] if isinstance(lq, str) else lq and list(lq)
        if self.lq is not None and len(self.lq) != len(self.gt):
            raise ValueError(f"lq must name a folder for each in gt, found {self.lq} for {self.gt}")
        if length is not None and length < 1:
            raise ValueError(f"length must be at least 1, found {length}")
        self.folder = Path(data_root).expanduser()
        self.scale, self.grey, self.length = scale, grey, length
        self.min_size, self.quantize = min_size, quantize
        self.cache = {} if cache else None
        super().__init__(data_root=str(data_root), **kwargs)

    def load_data_list(self) -> list[dict]:
        pairs = []
        for i, name in enumerate(self.gt):
            paths = find_images(self.folder / name)
            if not paths:
                raise FileNotFoundError(f"{self.folder / name}: found no image")
            poor = None if self.lq is None else self._find_poor(self.folder / self.lq[i])
            for path in paths:
                pairs.append({"img_path": path, "dataset": Path(name).name})
                if poor is not None:
                    stem = Path(path).relative_to(self.folder / name).with_suffix("")
                    pairs[-1]["lq_path"] = self._match(path, str(stem), poor, self.folder / self.lq[i])
        return pairs

    @staticmethod
    def _find_poor(folder: Path) -> dict[str, list[str]]:
        """Images by their paths below the folder, without suffix."""
        found = defaultdict(list)
        for path in find_images(folder):
            found[str(Path(path).relative_to(folder).with_suffix(""))].append(path)
        return found

    def _match(self, path: str, stem: str, poor: dict[str, list[str]], folder: Path) -> str:
        found = [*poor.get(stem, ()), *poor.get(f"{stem}x{self.scale}", ())]
        if not found:
            raise FileNotFoundError(f"{folder}: found no image {stem} or {stem}x{self.scale} for {path}")
        if len(found) > 1:
            raise OSError(f"{path}: found {' and '.join(found)} as its poor image, wanted one")
        return found[0]

    def __len__(self) -> int:
        return self.length or super().__len__()

    def get_data_info(self, idx: int) -> dict:
        count = super().__len__()
        info = {**super().get_data_info(idx % count), "sample_idx": idx}
        if self.cache is None:
            gt, lq = self._read_pair(info)
        else:
            if idx % count not in self.cache:
                self.cache[idx % count] = self._read_pair(info)
            gt, lq = self.cache[idx % count]
        return {**info, "gt": gt, "lq": lq}

    def _read_pair(self, info: dict) -> tuple[np.ndarray, np.ndarray]:
        gt = self._read(info["img_path"])
        if self.min_size and min(gt.shape[:2]) < self.min_size:
            ratio = self.min_size / min(gt.shape[:2])
            gt = imresize(gt, size=[max(self.min_size, round(side * ratio)) for side in gt.shape[:2]])
        whole = gt.shape[:2]
        try:
            gt = mod_crop(gt, self.scale)
        except ValueError as error:
            raise OSError(f"{info['img_path']}: {error}") from error
        if "lq_path" in info:
            lq = self._read(info["lq_path"])
            height, width = (side // self.scale for side in gt.shape[:2])
            if not (0 <= lq.shape[0] - height <= 1 and 0 <= lq.shape[1] - width <= 1):
                raise OSError(
                    f"{info['lq_path']}: found {lq.shape[0]} x {lq.shape[1]} pixels, wanted "
                    f"{height} x {width}: 1/{self.scale} of {info['img_path']} of {whole[0]} x {whole[1]}"
                )
            return gt, lq[:height, :width]  # where sides do not divide, files may have a pixel more
        source = gt if self.quantize else to_float(gt)
        return gt, source if self.scale == 1 else imresize(source, 1 / self.scale)

    def _read(self, path: str) -> np.ndarray:
        pixels = read_image(path).pixels
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)
        if self.grey == (pixels.shape[2] == 1):
            return pixels
        if self.grey:
            return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
        return np.repeat(pixels, 3, axis=2)
