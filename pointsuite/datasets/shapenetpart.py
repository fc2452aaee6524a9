"""ShapeNetPart (Yi et al., SIGGRAPH Asia 2016): shapes of 16 categories, each point one of 50 parts.

Either release will do, the first that the folder holds:

- ``shapenetcore_partanno_segmentation_benchmark_v0_normal``: one file of text a shape,
  02691156/1a04e3ea....txt with rows "x y z nx ny nz part" (some 500 to 3000 of them), and the lists
  train_test_split/shuffled_{train,val,test}_file_list.json of names "shape_data/02691156/1a04e3ea...".
- ``hdf5_data``: lists {train,val,test}_hdf5_file_list.txt of HDF5 files with data (M, 2048, 3), label (M, 1)
  and pid (M, 2048), without normals: they are estimated.

In both y is up.

RISurConv trains on train and val together, the split "trainval" here. It normalises each shape whole and
then draws 2048 points with repetition, the same in each epoch; ``--sampling published`` gives that draw. By
default points are drawn without repetition as far as a shape has as many.
"""

import argparse
from pathlib import Path, PurePosixPath

import numpy as np

from pointsuite.engine.files import read_json

from . import convert
from .convert import Entry, Shape, Source
from .layout import DatasetError

HELP = "ShapeNetPart (the text files with normals, or hdf5_data)"
# folder -> category and its number of parts; the parts are numbered through in this order
CATEGORIES = {
    "02691156": ("Airplane", 4),
    "02773838": ("Bag", 2),
    "02954340": ("Cap", 2),
    "02958343": ("Car", 4),
    "03001627": ("Chair", 4),
    "03261776": ("Earphone", 3),
    "03467517": ("Guitar", 3),
    "03624134": ("Knife", 2),
    "03636649": ("Lamp", 4),
    "03642806": ("Laptop", 2),
    "03790512": ("Motorbike", 6),
    "03797390": ("Mug", 2),
    "03948459": ("Pistol", 3),
    "04099429": ("Rocket", 3),
    "04225987": ("Skateboard", 3),
    "04379243": ("Table", 3),
}
FOLDERS = tuple(CATEGORIES)
CLASSES = tuple(name for name, _ in CATEGORIES.values())
PART_CLASSES = tuple(f"{name} {i}" for name, count in CATEGORIES.values() for i in range(count))
_FIRST = np.cumsum([0] + [count for _, count in CATEGORIES.values()])
# category -> the ids of its parts, which index PART_CLASSES
PARTS = {name: tuple(range(_FIRST[i], _FIRST[i + 1])) for i, name in enumerate(CLASSES)}
COUNTS = {"train": 12137, "val": 1870, "test": 2874}
SOURCE = Source(
    name="ShapeNetPart",
    offered="https://shapenet.cs.stanford.edu/media/"
    "shapenetcore_partanno_segmentation_benchmark_v0_normal.zip and "
    "https://shapenet.cs.stanford.edu/media/shapenet_part_seg_hdf5_data.zip; its home is https://shapenet.org",
    licence="terms of use of ShapeNet, https://shapenet.org/terms: non-commercial research and education",
    attribution="L. Yi et al., A scalable active framework for region annotation, SIGGRAPH Asia 2016; "
    "changed: points sampled",
)


def check_part(part: np.ndarray, category: str) -> np.ndarray:
    """``part`` (N,) as uint8; ValueError names the first row that is no part of ``category``."""
    bad = ~np.isin(part, PARTS[category])
    if bad.any():
        row, first, last = int(bad.argmax()), PARTS[category][0], PARTS[category][-1]
        raise ValueError(f"row {row}: part {part[row]:g}, wanted {first} to {last} ({category})")
    return part.astype(np.uint8)


def read_text(entry: Entry) -> Shape:
    """One file of text."""
    table = convert.read_table(entry.path, 7)
    part = check_part(table[:, 6], CLASSES[entry.label])
    return Shape(table[:, :3], entry.label, entry.name, table[:, 3:6], part)


def text_splits(root: Path) -> dict[str, list[Entry]]:
    """Files of the splits, as the lists name them."""
    splits = {}
    for split in COUNTS:
        listing = root / "train_test_split" / f"shuffled_{split}_file_list.json"
        if not listing.is_file():
            SOURCE.missing(f"{listing}: no such file")
        found = read_json(listing)
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise DatasetError(f"{listing}: found {str(found)[:60]!r}, wanted a JSON list of names")
        names = [PurePosixPath(name) for name in found]
        splits[split] = []
        for row, name in enumerate(names):
            folder = name.parent.name
            if folder not in FOLDERS:
                raise DatasetError(f"{listing}, row {row}: '{name}', wanted a folder of {', '.join(FOLDERS)}")
            path = root / folder / f"{name.name}.txt"
            splits[split].append(Entry(path, FOLDERS.index(folder), f"{folder}/{name.name}"))
        absent = [entry for entry in splits[split] if not entry.path.is_file()]
        if absent:
            SOURCE.missing(
                f"{absent[0].path}: no such file ({len(absent)} of {len(names)} in {listing.name})"
            )
    return splits


def hdf5_splits(root: Path) -> dict[str, list[Shape]]:
    """Shapes of the HDF5 files that the lists name."""
    splits = {}
    for split in COUNTS:
        listing = root / f"{split}_hdf5_file_list.txt"
        if not listing.is_file():
            SOURCE.missing(f"{listing}: no such file")
        splits[split] = []
        for line in convert.read_list(listing):
            path = root / PurePosixPath(line).name
            if not path.is_file():
                SOURCE.missing(f"{path}: no such file, {listing.name} names it")
            splits[split] += hdf5_shapes(path)
    return splits


def hdf5_shapes(path: Path) -> list[Shape]:
    """The rows of one HDF5 file."""
    rows = convert.read_rows(path, ("data", "label", "pid"))
    label = convert.indices(rows["label"], CLASSES, f"{path}, key 'label'")
    if rows["pid"].shape != rows["data"].shape[:2]:
        raise DatasetError(f"{path}, key 'pid': shape {rows['pid'].shape}, wanted {rows['data'].shape[:2]}")
    shapes = []
    for row, (points, i, part) in enumerate(zip(rows["data"], label, rows["pid"], strict=True)):
        try:
            part = check_part(part, CLASSES[i])
        except ValueError as error:
            raise DatasetError(f"{path}, key 'pid', shape {row}, {error}") from error
        shapes.append(Shape(points, int(i), f"{path.stem}:{row}", part=part))
    return shapes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    convert.add_arguments(
        parser,
        "shapenetpart",
        num_points=2048,
        samplings=("random", "published", "fps", "first"),
        root="the folder of the text files, or hdf5_data",
        up="y",
    )
    parser.add_argument("--keep-val", action="store_true", help="splits train and val, not trainval")


def prepare(args: argparse.Namespace) -> str:
    """Make the file that ``args`` asks for; returns a table of what is in it."""
    if (args.root / "train_test_split").is_dir():
        splits, read = text_splits(args.root), read_text
    elif (args.root / "train_hdf5_file_list.txt").is_file():
        splits, read = hdf5_splits(args.root), convert.same
    else:
        SOURCE.missing(f"{args.root}: neither train_test_split nor train_hdf5_file_list.txt is there")
    counts = dict(COUNTS)
    if not args.keep_val:
        for table in (splits, counts):
            table["trainval"] = table.pop("train") + table.pop("val")
    names = CLASSES, PART_CLASSES
    return convert.prepare(args, splits, read, SOURCE, *names, counts=counts, normalize="all", up="y")
