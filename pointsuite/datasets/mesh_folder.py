"""Any folder of meshes: <split>/<class>/file, <class>/<split>/file or <class>/file.

Files are .off, .obj or .ply. Points are drawn from the surfaces with the normals of their triangles:
"uniform" by area; "fps", the farthest of five times as many uniform ones; or "poisson", those of five times
as many that a Poisson disk keeps, as Open3D has it.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from pointsuite.engine.files import walk_files
from pointsuite.io import MESH_SUFFIXES as SUFFIXES
from pointsuite.io import read_mesh as read_file
from pointsuite.io import sample_surface

from . import convert
from .convert import Entry, Shape, Source
from .layout import DatasetError

HELP = "a folder of meshes (.off .obj .ply): <split>/<class>/file, <class>/<split>/file or <class>/file"
SAMPLINGS = ("uniform", "fps", "poisson")
SPLITS = ("train", "training", "trainval", "val", "validation", "test", "testing")
WHOLE = "all"  # the split of files that are in none
INIT_FACTOR = 5


class MeshFile(NamedTuple):
    """A mesh, and how points are drawn from it."""

    path: Path
    label: int
    name: str
    num_points: int
    sampling: str
    seed: int

    def __str__(self) -> str:
        return str(self.path)


def find_files(
    root: Path, suffixes: Sequence[str], source: Source, classes: Sequence[str] | None = None
) -> tuple[dict[str, list[Entry]], tuple[str, ...]]:
    """The files below ``root`` by split, and the classes: those given, or the folders' names sorted.

    Raises:
        DatasetError: nothing there, folders in no known order, or a folder that is none of ``classes``.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: found {'a file' if root.exists() else 'nothing'}, wanted a folder")
    files = [path for path in walk_files(root) if path.suffix.lower() in suffixes]
    if not files:
        source.missing(f"{root}: no file {' or '.join(suffixes)} there")
    folders = [path.relative_to(root).parts[:-1] for path in files]
    lowered = [tuple(part.lower() for part in parts) for parts in folders]
    if all(len(parts) == 1 and parts[0] not in SPLITS for parts in lowered):
        at = None
    elif all(len(parts) == 2 and parts[0] in SPLITS for parts in lowered):
        at = 0
    elif all(len(parts) == 2 and parts[1] in SPLITS for parts in lowered):
        at = 1
    else:
        fits = [len(parts) == 2 and sum(part in SPLITS for part in parts) == 1 for parts in lowered]
        wrong = 0 if all(fits) else fits.index(False)
        raise DatasetError(
            f"{files[wrong]}: wanted {root}/<split>/<class>/file, /<class>/<split>/file or /<class>/file, "
            f"the same throughout, with splits out of {', '.join(SPLITS)}"
        )
    names = [parts[0 if at is None else 1 - at] for parts in folders]
    classes = tuple(classes or sorted(set(names)))
    splits: dict[str, list[Entry]] = {}
    for path, parts, name in zip(files, lowered, names, strict=True):
        if name not in classes:
            raise DatasetError(f"{path}: found the class '{name}', wanted one of {', '.join(classes)}")
        split = WHOLE if at is None else parts[at]
        entry = Entry(path, classes.index(name), path.relative_to(root).as_posix())
        splits.setdefault(split, []).append(entry)
    return {split: splits[split] for split in (WHOLE, *SPLITS) if split in splits}, classes


def split_objects(
    splits: dict[str, list[Entry]], classes: Sequence[str], share: float | None, seed: int
) -> tuple[dict[str, list[Entry]], str]:
    """Splits train and test of files that are in none, and a hint where that is not asked for.

    An object is what files of one name but for the suffix show; it is in one split only. Each class has
    objects in both.

    Raises:
        DatasetError: a share that is not between 0 and 1, files that are in splits already, a class of one
            object.
    """
    if share is None:
        hint = "\nthere is no split train or test: --test 0.2 makes them, or folders of these names"
        return splits, hint if list(splits) == [WHOLE] else ""
    if not 0 < share < 1:
        raise DatasetError(f"--test is {share}, wanted a share between 0 and 1")
    if list(splits) != [WHOLE]:
        raise DatasetError(f"--test is {share}, but the folders have the splits {', '.join(splits)}")
    found: dict[str, list[Entry]] = {"train": [], "test": []}
    for label, name in enumerate(classes):
        objects: dict[Path, list[Entry]] = {}
        for entry in splits[WHOLE]:
            if entry.label == label:
                objects.setdefault(entry.path.with_suffix(""), []).append(entry)
        if len(objects) < 2:
            raise DatasetError(f"class '{name}': {len(objects)} object, wanted 2 at least for --test")
        order = np.random.default_rng([seed, label]).permutation(len(objects))
        tested = set(order[: min(max(round(share * len(objects)), 1), len(objects) - 1)])
        for row, entries in enumerate(objects.values()):
            found["test" if row in tested else "train"] += entries
    return found, ""


def read_mesh(file: MeshFile) -> Shape:
    """Points and normals of one mesh; raises ValueError."""
    vertices, faces, notes = read_file(file.path)
    more = 1 if file.sampling == "uniform" else INIT_FACTOR
    points, normals = sample_surface(vertices, faces, more * file.num_points, file.seed).values()
    if file.sampling == "poisson":
        a, b, c = vertices[faces].swapaxes(0, 1)
        rows = poisson_disk(points, np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2, file.num_points)
        points, normals = points[rows], normals[rows]
    return Shape(points, file.label, file.name, normals, notes=notes)


def poisson_disk(points: np.ndarray, area: float, num_points: int) -> np.ndarray:
    """Rows of ``num_points`` points that keep their distance, of points (M, 3) on a surface of this area.

    The point that is most crowded by its neighbours goes, until so many are left. Yuksel, "Sample elimination
    for generating Poisson disk sample sets", 2015, with its parameters alpha 8, beta 0.65 and gamma 1.5.
    """
    reach = 2 * np.sqrt(area / (2 * np.sqrt(3) * num_points))
    least = reach * 0.65 * (1 - (num_points / len(points)) ** 1.5)
    pairs = cKDTree(points).query_pairs(reach, output_type="ndarray")
    one, other = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.argsort(one, kind="stable")
    one, other = one[order], other[order]
    distance = np.linalg.norm(points[one] - points[other], axis=1)
    push = (1 - np.clip(distance, least, reach) / reach) ** 8
    crowd = np.bincount(one, push, minlength=len(points))
    first = np.searchsorted(one, np.arange(len(points) + 1))
    for _ in range(len(points) - num_points):
        worst = crowd.argmax()
        near = slice(first[worst], first[worst + 1])
        crowd[other[near]] -= push[near]
        crowd[worst] = -np.inf
    return np.flatnonzero(crowd > -np.inf)


def add_sampling_arguments(
    parser: argparse.ArgumentParser,
    name: str,
    root: str,
    samplings: Sequence[str] = SAMPLINGS,
    up: str = "z",
) -> None:
    """The options of converters that read meshes."""
    convert.add_arguments(parser, name, samplings=samplings, root=root, up=up)


def prepare_meshes(
    args: argparse.Namespace,
    source: Source,
    classes: Sequence[str] | None = None,
    counts: Mapping[str, int] | None = None,
    up: str = "z",
) -> str:
    """Convert the meshes below ``args.root``; see :func:`pointsuite.datasets.convert.prepare`."""
    found, classes = find_files(args.root, SUFFIXES, source, classes)
    found, hint = split_objects(found, classes, getattr(args, "test", None), args.seed)
    splits = {
        split: [MeshFile(*entry, args.num_points, args.sampling, args.seed) for entry in entries]
        for split, entries in found.items()
    }
    return convert.prepare(args, splits, read_mesh, source, classes, counts=counts, up=up) + hint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sampling_arguments(parser, "meshes", "the folder")
    add_folder_arguments(parser)


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of folders that anyone may have made."""
    parser.add_argument(
        "--test",
        type=float,
        metavar="SHARE",
        help="of <class>/file, the share of each class's objects that becomes the split test, drawn with "
        "--seed; the others are the split train",
    )
    parser.add_argument("--licence", default="", help="of the files, noted in the data set")
    parser.add_argument("--attribution", default="", help="of the files, noted in the data set")


def prepare(args: argparse.Namespace) -> str:
    """Make the file that ``args`` asks for; returns a table of what is in it."""
    source = Source("A folder of meshes", "no place: it is yours", args.licence, args.attribution)
    return prepare_meshes(args, source)
