"""From a picture and fixations to objects and paths of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from ..registry import TRANSFORMS
from .sample import ScanpathDataSample


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class CutObjects:
    """``img`` uint8 (H, W, 3) to ``objects`` uint8 (K, 3, h, w), its cells row by row, and ``size`` (W, H).

    ``fixations``, where a sample has them, become ``paths`` of the cells that they fall into.

    Args:
        grid: rows and columns of the cells, which are as equal as whole pixels allow.
        size: height and width of an object, resized by OpenCV, bilinear.

    Raises:
        ValueError: more cells than pixels, or a path of objects that the grid does not have.
    """

    grid: Sequence[int]
    size: Sequence[int]

    def __call__(self, sample: dict) -> dict:
        image, (rows, columns) = sample["img"], self.grid
        height, width = image.shape[:2]
        if min(rows, columns) < 1 or rows > height or columns > width:
            raise ValueError(
                f"{sample.get('img_path', 'an image')}: a grid of {rows} x {columns} cells does not fit "
                f"{height} x {width} pixels"
            )
        tops, lefts = (
            np.linspace(0, n, k + 1).round().astype(int) for n, k in ((height, rows), (width, columns))
        )
        cells = [
            cv2.resize(image[top:bottom, left:right], tuple(self.size)[::-1], interpolation=cv2.INTER_LINEAR)
            for top, bottom in zip(tops, tops[1:], strict=False)
            for left, right in zip(lefts, lefts[1:], strict=False)
        ]
        objects = np.ascontiguousarray(np.stack(cells).transpose(0, 3, 1, 2))
        sample = {**sample, "objects": objects, "grid": (rows, columns), "size": (width, height)}
        if "fixations" in sample:
            sample["paths"] = [find_cells(f[:, :2], self.grid, sample["size"]) for f in sample["fixations"]]
        for path in sample.get("paths", []):
            if path.max() >= rows * columns:
                raise ValueError(
                    f"{sample.get('img_path')}: a path has the object {path.max()}, wanted 0 to "
                    f"{rows * columns - 1}"
                )
        return sample


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class PackScanpaths:
    """{"inputs": uint8 tensor (K, 3, h, w); "data_samples": :class:`ScanpathDataSample`}."""

    def __call__(self, sample: dict) -> dict:
        metainfo = {key: sample.get(key) for key in ("img_path", "grid", "size", "target")}
        packed = ScanpathDataSample(metainfo={"index": sample.get("sample_idx"), **metainfo})
        if "paths" in sample:
            packed.gt_paths = [torch.from_numpy(np.asarray(path, np.int64)) for path in sample["paths"]]
        if "fixations" in sample:
            fixations = [torch.from_numpy(np.asarray(each, np.float32)) for each in sample["fixations"]]
            packed.gt_points = [each[:, :2] for each in fixations]
            packed.gt_durations = [each[:, 2] for each in fixations]
        return {"inputs": torch.from_numpy(sample["objects"]), "data_samples": packed}


def find_cells(points: np.ndarray, grid: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Cells, int64 (n,), into which points (n, 2) of a picture of width and height ``size`` fall.

    Points beside the picture are in the nearest cell.
    """
    rows, columns = grid
    share = np.asarray(points, float) / np.asarray(size, float)
    column, row = (np.floor(share * (columns, rows)).clip(0, (columns - 1, rows - 1)).astype(np.int64)).T
    return row * columns + column


def cell_centres(path: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """The middles (n, 2), x and y in pixels, of cells (n,)."""
    rows, columns = grid
    steps = torch.tensor([size[0] / columns, size[1] / rows], device=path.device)
    return (torch.stack((path % columns, path // columns), 1) + 0.5) * steps


def assemble(objects: Tensor, grid: Sequence[int]) -> Tensor:
    """The picture (C, rows h, columns w) of objects (K, C, h, w)."""
    rows = objects.unflatten(0, tuple(grid)).permute(2, 0, 3, 1, 4)  # (C, rows, h, columns, w)
    return rows.flatten(3).flatten(1, 2)
