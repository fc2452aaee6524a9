"""ModelNet40 (Wu et al., "3D ShapeNets", CVPR 2015): CAD shapes of 40 classes, as two sets of clouds.

Either release will do, the first that the folder holds:

- ``modelnet40_normal_resampled``: lists modelnet40_train.txt and modelnet40_test.txt of names such as
  airplane_0001, and one file of text a shape, airplane/airplane_0001.txt, with 10,000 rows "x,y,z,nx,ny,nz".
- ``modelnet40_ply_hdf5_2048``: lists train_files.txt and test_files.txt of HDF5 files with data (M, 2048, 3),
  label (M, 1) and normal (M, 2048, 3). It has 9,840 training shapes, three fewer than the first.

RISurConv takes the first, chooses 1024 points by farthest point sampling once, then normalises. Its sampling
starts at a random point; here it starts at the first, which is no less arbitrary and the same each time.
In both releases y is up (z is in ModelNet's meshes).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from . import convert
from .convert import Entry, Shape, Source
from .layout import DatasetError

HELP = "ModelNet40 (modelnet40_normal_resampled or modelnet40_ply_hdf5_2048)"
# fmt: off
CLASSES = (
    "airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car", "chair", "cone",
    "cup", "curtain", "desk", "door", "dresser", "flower_pot", "glass_box", "guitar", "keyboard", "lamp",
    "laptop", "mantel", "monitor", "night_stand", "person", "piano", "plant", "radio", "range_hood", "sink",
    "sofa", "stairs", "stool", "table", "tent", "toilet", "tv_stand", "vase", "wardrobe", "xbox",
)
# fmt: on
COUNTS = {"train": 9843, "test": 2468}
UP = "y"
HDF5_COUNTS = {"train": 9840, "test": 2468}
SOURCE = Source(
    name="ModelNet40",
    offered="https://shapenet.cs.stanford.edu/media/modelnet40_normal_resampled.zip and "
    "https://shapenet.cs.stanford.edu/media/modelnet40_ply_hdf5_2048.zip; its home is "
    "https://modelnet.cs.princeton.edu",
    licence="for academic research; the models belong to their authors",
    attribution="Z. Wu et al., 3D ShapeNets, CVPR 2015; points by C. R. Qi et al.; changed: points sampled",
)


def read_text(entry: Entry) -> Shape:
    """One file of modelnet40_normal_resampled."""
    table = convert.read_table(entry.path, 6)
    return Shape(table[:, :3], entry.label, entry.name, table[:, 3:])


def text_splits(root: Path, prefix: str, classes: Sequence[str], source: Source) -> dict[str, list[Entry]]:
    """Files of the splits as {prefix}_train.txt and {prefix}_test.txt list them.

    Raises:
        DatasetError: a list is missing, names no class, or names files that are not there.
    """
    splits = {}
    for split in ("train", "test"):
        listing = root / f"{prefix}_{split}.txt"
        if not listing.is_file():
            source.missing(f"{listing}: no such file")
        splits[split] = []
        for row, name in enumerate(convert.read_list(listing)):
            folder = name.rpartition("_")[0]
            if folder not in classes:
                raise DatasetError(f"{listing}, row {row}: '{name}', wanted a class of {', '.join(classes)}")
            path = root / folder / f"{name}.txt"
            splits[split].append(Entry(path, classes.index(folder), f"{folder}/{name}"))
        absent = [entry for entry in splits[split] if not entry.path.is_file()]
        if absent:
            source.missing(
                f"{absent[0].path}: no such file ({len(absent)} of {len(splits[split])} in {listing.name})"
            )
    return splits


def hdf5_splits(root: Path) -> dict[str, list[Shape]]:
    """Shapes of the HDF5 files that train_files.txt and test_files.txt list."""
    splits = {}
    for split in ("train", "test"):
        listing = root / f"{split}_files.txt"
        if not listing.is_file():
            SOURCE.missing(f"{listing}: no such file")
        splits[split] = []
        for line in convert.read_list(listing):
            path = root / PurePosixPath(line).name  # the lists name a folder of their maker's
            if not path.is_file():
                SOURCE.missing(f"{path}: no such file, {listing.name} names it")
            splits[split] += hdf5_shapes(path)
    return splits


def hdf5_shapes(path: Path) -> list[Shape]:
    """The rows of one HDF5 file."""
    rows = convert.read_rows(path, ("data", "label"), ("normal",))
    label = convert.indices(rows["label"], CLASSES, f"{path}, key 'label'")
    normals = rows.get("normal", [None] * len(label))
    if "normal" in rows and normals.shape != rows["data"].shape:
        raise DatasetError(f"{path}, key 'normal': shape {normals.shape}, wanted {rows['data'].shape}")
    return [
        Shape(points.astype(np.float32), int(i), f"{path.stem}:{row}", normal)
        for row, (points, i, normal) in enumerate(zip(rows["data"], label, normals, strict=True))
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    root = "the folder modelnet40_normal_resampled or modelnet40_ply_hdf5_2048"
    convert.add_arguments(parser, "modelnet40", root=root, up=UP)


def prepare(args: argparse.Namespace) -> str:
    """Make the file that ``args`` asks for; returns a table of what is in it."""
    if (args.root / "modelnet40_train.txt").is_file():
        splits = text_splits(args.root, "modelnet40", CLASSES, SOURCE)
        return convert.prepare(args, splits, read_text, SOURCE, CLASSES, counts=COUNTS, up=UP)
    if (args.root / "train_files.txt").is_file():
        splits = hdf5_splits(args.root)
        return convert.prepare(args, splits, convert.same, SOURCE, CLASSES, counts=HDF5_COUNTS, up=UP)
    SOURCE.missing(f"{args.root}: neither modelnet40_train.txt nor train_files.txt is there")
