"""ModelNet10 (Wu et al., "3D ShapeNets", CVPR 2015): upright CAD shapes of 10 classes.

Three releases will do:

- ``ModelNet10``: meshes, bathtub/train/bathtub_0001.off;
- ``modelnet40_normal_resampled``: its lists modelnet10_train.txt and modelnet10_test.txt are ModelNet10;
- an .npz of occupancy grids: X_train and X_test (M, D, D, D), y_train and y_test (M,). Points are drawn from
  the faces between full and empty cells; their normals have six directions, so that results compare with no
  published ones. Grids without a full cell are left out.

z is up in meshes and grids, y in the clouds of modelnet40_normal_resampled.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pointsuite.engine.files import read_bytes
from pointsuite.io import PointFileError
from pointsuite.io.arrays import load_npz

from . import convert, mesh_folder, modelnet40
from .convert import Shape, Source
from .layout import DatasetError
from .modelnet40 import read_text, text_splits

HELP = "ModelNet10 (meshes, modelnet40_normal_resampled, or an .npz of voxels)"
# fmt: off
CLASSES = (
    "bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet",
)
# fmt: on
COUNTS = {"train": 3991, "test": 908}
SOURCE = Source(
    name="ModelNet10",
    offered="https://modelnet.cs.princeton.edu (ModelNet10.zip)",
    licence="for academic research; the models belong to their authors",
    attribution="Z. Wu et al., 3D ShapeNets, CVPR 2015; changed: points sampled from the surfaces",
)
_DIRECTIONS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])


class Grid(NamedTuple):
    """An occupancy grid (D, D, D), and how many points to draw from its surface with which seed."""

    cells: np.ndarray
    label: int
    name: str
    num_points: int
    seed: int

    def __str__(self) -> str:
        return self.name


def sample_voxels(
    cells: np.ndarray, num_points: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points spread evenly over the faces between full and empty cells, in units of a cell.

    Args:
        cells: bool (D, D, D).

    Returns:
        points (num_points, 3) and normals (num_points, 3), float64; the cell at index i has its centre at i.

    Raises:
        ValueError: no cell is full.
    """
    padded = np.pad(cells, 1)
    cell, direction = [], []
    for i, step in enumerate(_DIRECTIONS):
        bare = np.argwhere(padded & ~np.roll(padded, tuple(-step), (0, 1, 2))) - 1
        cell.append(bare)
        direction.append(np.full(len(bare), i))
    cell, direction = np.concatenate(cell), np.concatenate(direction)
    if not len(cell):
        raise ValueError("no cell of the grid is full")
    face = rng.integers(len(cell), size=num_points)
    normal = _DIRECTIONS[direction[face]]
    within = np.where(normal == 0, rng.uniform(-0.5, 0.5, (num_points, 3)), 0)
    return cell[face] + 0.5 * normal + within, normal.astype(np.float64)


def read_grid(grid: Grid) -> Shape:
    points, normals = sample_voxels(grid.cells, grid.num_points, np.random.default_rng(grid.seed))
    return Shape(points, grid.label, grid.name, normals)


def voxel_splits(path: Path, num_points: int, seed: int) -> tuple[dict[str, Sequence[Grid]], list[str]]:
    """Grids of the splits, and a line for each that was left out because it is empty."""
    keys = [f"{letter}_{split}" for split in COUNTS for letter in "Xy"]
    try:
        arrays = load_npz(read_bytes(path), keys)
    except PointFileError as error:
        raise DatasetError(f"{path}: not an .npz of X_train, y_train, X_test and y_test ({error})") from error
    splits, left_out = {}, []
    for split in COUNTS:
        cells = arrays[f"X_{split}"]
        if cells.dtype.kind not in "biuf" or arrays[f"y_{split}"].dtype.kind not in "iuf":
            kinds = cells.dtype, arrays[f"y_{split}"].dtype
            raise DatasetError(f"{path}: X_{split} and y_{split} are of types {kinds}, wanted numbers")
        if cells.ndim != 4 or len(arrays[f"y_{split}"]) != len(cells):
            shapes = cells.shape, arrays[f"y_{split}"].shape
            raise DatasetError(
                f"{path}: X_{split} and y_{split} have shapes {shapes}, wanted (M, D, D, D), (M,)"
            )
        label = convert.indices(arrays[f"y_{split}"], CLASSES, f"{path}, key 'y_{split}'")
        full = cells.any((1, 2, 3))
        left_out += [f"left out {path.stem}:{split}:{row}: an empty grid" for row in np.flatnonzero(~full)]
        splits[split] = [
            Grid(cells[row] > 0, int(label[row]), f"{path.stem}:{split}:{row}", num_points, seed)
            for row in np.flatnonzero(full)
        ]
    return splits, left_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    mesh_folder.add_sampling_arguments(
        parser, "modelnet10", "the folder ModelNet10 or modelnet40_normal_resampled, or an .npz of voxels"
    )


def prepare(args: argparse.Namespace) -> str:
    """Make the file that ``args`` asks for; returns a table of what is in it."""
    if args.root.is_file():
        args.sampling = "first"  # of points drawn evenly, as many as are wanted
        splits, left_out = voxel_splits(args.root, args.num_points, args.seed)
        empty = {split: sum(f":{split}:" in line for line in left_out) for split in COUNTS}
        counts = {split: COUNTS[split] - empty[split] for split in COUNTS}
        table = convert.prepare(args, splits, read_grid, SOURCE, CLASSES, counts=counts)
        return "\n".join([*left_out, table])
    if (args.root / "modelnet10_train.txt").is_file():
        args.sampling = "random" if args.sampling == "uniform" else "fps"
        splits = text_splits(args.root, "modelnet10", CLASSES, SOURCE)
        return convert.prepare(args, splits, read_text, SOURCE, CLASSES, counts=COUNTS, up=modelnet40.UP)
    return mesh_folder.prepare_meshes(args, SOURCE, classes=CLASSES, counts=COUNTS)
