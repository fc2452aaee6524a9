"""Any folder of clouds: <split>/<class>/file, <class>/<split>/file or <class>/file.

Files are of any suffix that :func:`pointsuite.io.read_points` reads, HDF5 apart. Normals that a file lacks
are estimated; parts are not kept, as their names are unknown.
"""

import argparse

from pointsuite.io import SUFFIXES as READABLE
from pointsuite.io import read_points

from . import convert
from .convert import Entry, Shape, Source
from .mesh_folder import find_files

SUFFIXES = tuple(suffix for suffix in READABLE if suffix not in (".h5", ".hdf5", ".off", ".obj"))
HELP = f"a folder of clouds ({' '.join(SUFFIXES)}), as for meshes"


def read_cloud(entry: Entry) -> Shape:
    """One file, whole; raises PointFileError."""
    points, normals, _, _ = read_points(entry.path)
    return Shape(points, entry.label, entry.name, normals)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    convert.add_arguments(parser, "clouds", root="the folder")
    parser.add_argument("--no-normalize", action="store_true", help="keep the coordinates as they are")
    parser.add_argument("--licence", default="", help="of the clouds, noted in the file")
    parser.add_argument("--attribution", default="", help="of the clouds, noted in the file")


def prepare(args: argparse.Namespace) -> str:
    """Make the file that ``args`` asks for; returns a table of what is in it."""
    source = Source("A folder of clouds", "no place: it is yours", args.licence, args.attribution)
    splits, classes = find_files(args.root, SUFFIXES, source)
    normalize = "never" if args.no_normalize else "sampled"
    return convert.prepare(args, splits, read_cloud, source, classes, normalize=normalize)
