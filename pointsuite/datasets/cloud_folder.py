"""Any folder of clouds: <split>/<class>/file, <class>/<split>/file or <class>/file.

Files are of any suffix that :func:`pointsuite.io.read_points` reads, HDF5 apart. Normals that a file lacks
are estimated; parts are not kept, as their names are unknown.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from pointsuite.io import SUFFIXES as READABLE
from pointsuite.io import read_points

from . import convert
from .convert import Shape, Source
from .mesh_folder import add_folder_arguments, find_files, split_objects

SUFFIXES = tuple(suffix for suffix in READABLE if suffix not in (".h5", ".hdf5"))
HELP = "a folder of clouds (of any format that is read here), as for meshes"


class CloudFile(NamedTuple):
    """A file, and how it is read; see :func:`pointsuite.io.read_points`."""

    path: Path
    label: int
    name: str
    num_points: int
    columns: str | None
    drop_nan: bool
    estimate_normals: bool

    def __str__(self) -> str:
        return str(self.path)


def read_cloud(file: CloudFile) -> Shape:
    """One file, whole; raises PointFileError."""
    cloud = read_points(file.path, file.num_points, columns=file.columns, drop_nan=file.drop_nan, warn=False)
    normals, notes = cloud.normals, cloud.notes
    if file.estimate_normals and normals is not None:
        normals, notes = None, (*notes, "estimated normals in place of those of the file")
    return Shape(cloud.points, file.label, file.name, normals, notes=notes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    convert.add_arguments(parser, "clouds", root="the folder", up="z")
    parser.add_argument("--no-normalize", action="store_true", help="keep the coordinates as they are")
    parser.add_argument(
        "--columns", metavar="'x y z nx ny nz'", help="of text and npy files (r g b, part; _ passes one over)"
    )
    parser.add_argument("--drop-nan", action="store_true", help="leave out points that are NaN or infinite")
    parser.add_argument("--estimate-normals", action="store_true", help="also where the files have normals")
    add_folder_arguments(parser)


def prepare(args: argparse.Namespace) -> str:
    """Make the file that ``args`` asks for; returns a table of what is in it."""
    source = Source("A folder of clouds", "no place: it is yours", args.licence, args.attribution)
    found, classes = find_files(args.root, SUFFIXES, source)
    found, hint = split_objects(found, classes, args.test, args.seed)
    how = args.num_points, args.columns, args.drop_nan, args.estimate_normals
    splits = {split: [CloudFile(*entry, *how) for entry in entries] for split, entries in found.items()}
    normalize = "never" if args.no_normalize else "sampled"
    return convert.prepare(args, splits, read_cloud, source, classes, normalize=normalize) + hint
