"""What the converters of data sets share: how a shape becomes a row of the one layout, and how they report.

A converter lists its shapes by split; :func:`prepare` reads them (in several processes), samples each to one
size, estimates the normals that are missing, checks how many there are and writes the file.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from pointsuite.engine.files import FileError, read_text
from pointsuite.engine.workers import add_workers, run_workers
from pointsuite.io import PointFileError
from pointsuite.io.hdf5 import open_hdf5
from pointsuite.io.point_file import single_precision, split_lines

from .layout import (
    AXES,
    MIN_NORMAL,
    POINT_SCALE,
    Clouds,
    DatasetError,
    FileInfo,
    encode_normals,
    encode_points,
    write_clouds,
)

SAMPLINGS = ("fps", "first", "random")
ORIENTATIONS = ("outward", "none")
STORING = 1e-4  # the largest error of storing, of a cloud's extent
NEIGHBOURS = 32  # of a point whose normal is estimated, as published with RISurConv


@dataclass(frozen=True)
class Source:
    """A data set as its owner offers it: where, and under which terms."""

    name: str
    offered: str
    licence: str
    attribution: str

    def missing(self, what: str) -> NoReturn:
        """Raise DatasetError: ``what`` is not there, and where it is to be had."""
        raise DatasetError(f"{what}. {self.name} is offered at {self.offered}")


class Shape(NamedTuple):
    """One shape as it was read: points (N, 3), label, name; normals (N, 3), part (N,) where it has them."""

    points: np.ndarray
    label: int
    name: str
    normals: np.ndarray | None = None
    part: np.ndarray | None = None
    notes: tuple[str, ...] = ()  # what was left out of its file or had to be decided


class Entry(NamedTuple):
    """A shape that is a file of its own."""

    path: Path
    label: int
    name: str

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Recipe:
    """How a shape becomes a row.

    Args:
        num_points: of each row.
        sampling: "fps" (farthest point sampling from the first point on), "first" (the leading points),
            "random" (without repetition; where a shape has too few points, each is taken equally often) or
            "published" (indices drawn with repetition from NumPy's legacy generator with seed 2).
        normalize: when the centroid goes to the origin and the farthest point to distance 1: "all", before
            points are chosen; "sampled", after; "never".
        orient: of estimated normals, see :func:`pointsuite.ops.estimate_normals`.
        seed: of "random": the same for each shape, so that a shape's points depend on it alone.
    """

    num_points: int
    sampling: str
    normalize: str = "sampled"
    orient: str = "outward"
    seed: int = 0

    def __call__(self, shape: Shape) -> Shape:
        """Raises ValueError: too few points, NaN or infinity, a normal of no length; the row is named."""
        self._check(shape)
        if self.normalize == "all":
            shape = shape._replace(points=_unit_sphere(shape.points))
        rows = self._choose(shape.points)
        per_point = {key: getattr(shape, key) for key in ("points", "normals", "part")}
        shape = shape._replace(**{key: v[rows] for key, v in per_point.items() if v is not None})
        if self.normalize == "sampled":
            shape = shape._replace(points=_unit_sphere(shape.points))
        if shape.normals is None:
            return shape._replace(normals=_estimate(shape.points, self.orient))
        length = np.linalg.norm(shape.normals, axis=1, keepdims=True)
        return shape._replace(normals=shape.normals / length)

    @staticmethod
    def _check(shape: Shape) -> None:
        for key in ("points", "normals"):
            value = getattr(shape, key)
            if value is None:
                continue
            bad = ~np.isfinite(value).all(1)
            if bad.any():
                raise ValueError(f"row {np.flatnonzero(bad)[0]}: {key} hold NaN or infinity")
            if key == "normals" and (short := np.linalg.norm(value, axis=1) < MIN_NORMAL).any():
                raise ValueError(
                    f"row {np.flatnonzero(short)[0]}: the normal has no length, wanted 1 "
                    "(clouds: --estimate-normals)"
                )

    def _choose(self, points: np.ndarray) -> np.ndarray:
        count = len(points)
        if self.sampling == "random":
            return np.resize(np.random.default_rng(self.seed).permutation(count), self.num_points)
        if self.sampling == "published":
            legacy = np.random.RandomState(2)  # not default_rng: its numbers are the published ones
            return legacy.choice(count, self.num_points, replace=True)
        if count < self.num_points:
            raise ValueError(
                f"{count} points, wanted at least {self.num_points}: ask for fewer with --num-points, or "
                "repeat points with --sampling random"
            )
        if self.sampling == "first" or count == self.num_points:
            return np.arange(self.num_points)
        import torch

        from pointsuite.ops import farthest_point_sample

        cloud = torch.from_numpy(np.ascontiguousarray(points, np.float32))
        return farthest_point_sample(cloud[None], self.num_points)[0].numpy()


def _unit_sphere(points: np.ndarray) -> np.ndarray:
    points = points.astype(np.float64)
    points -= points.mean(0)
    return points / (np.linalg.norm(points, axis=1).max() or 1)


def _estimate(points: np.ndarray, orient: str) -> np.ndarray:
    import torch

    from pointsuite.ops import estimate_normals

    cloud = torch.from_numpy(np.ascontiguousarray(points, np.float32))
    return estimate_normals(cloud[None], min(NEIGHBOURS, len(cloud)), orient)[0].numpy()


def read_table(path: Path, columns: int) -> np.ndarray:
    """Rows of ``columns`` numbers between blanks or commas, float32 (N, columns).

    The first three are coordinates: far from the origin, where float32 would round them, an offset is
    subtracted (:func:`pointsuite.io.point_file.single_precision`).

    Raises:
        ValueError: what is no such row, and where.
    """
    lines = split_lines(read_text(path).replace(",", " "))
    try:
        table = np.loadtxt(lines, np.float64, comments=None, ndmin=2) if any(map(str.strip, lines)) else None
    except ValueError:
        table = np.empty((0, 0))
    if table is None:
        raise ValueError(f"found no rows, wanted rows of {columns} numbers")
    if table.shape[1] != columns:
        row, line = next((i, line) for i, line in enumerate(lines) if not _is_row(line, columns))
        raise ValueError(f"row {row}: found '{line[:60]}', wanted {columns} numbers")
    with np.errstate(over="ignore"):  # becomes infinite, which the recipe refuses
        single = table.astype(np.float32)
    if np.isfinite(single[:, :3]).all():
        single[:, :3], _ = single_precision(table[:, :3], [])
    return single


def _is_row(line: str, columns: int) -> bool:
    """Whether a line is ``columns`` numbers, or blank."""
    try:
        return len([float(field) for field in line.split()]) in (0, columns)
    except ValueError:
        return False


def read_rows(path: Path, keys: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Datasets of an HDF5 file, whose first axes agree.

    Raises:
        DatasetError: damaged, a key is missing, or the lengths differ.
    """
    try:
        with open_hdf5(path) as file:
            found = file.names()
            arrays = {key: file.read(key) for key in (*keys, *optional) if key in found}
    except (PointFileError, FileError) as error:
        raise DatasetError(f"{path}: damaged or not an HDF5 file ({' '.join(str(error).split())})") from error
    for key in keys:
        if key not in arrays:
            raise DatasetError(f"{path}: key '{key}' is missing, found {found}")
    for key, array in arrays.items():
        if array.dtype.kind not in "iuf" or not array.ndim:
            raise DatasetError(
                f"{path}, key '{key}': {array.dtype} of shape {array.shape}, wanted an array of numbers"
            )
    points = arrays[keys[0]]
    if points.ndim != 3 or points.shape[2] != 3:
        raise DatasetError(f"{path}, key '{keys[0]}': shape {points.shape}, wanted (M, N, 3)")
    for key, array in arrays.items():
        if len(array) != len(points):
            raise DatasetError(f"{path}, key '{key}': {len(array)} rows, wanted {len(points)}")
    return arrays


def read_list(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def indices(values: np.ndarray, names: Sequence[str], where: str) -> np.ndarray:
    """``values`` flattened to (M,) int64, each an index of ``names``; DatasetError names the first other."""
    values = np.asarray(values).reshape(len(values), -1)
    bad = ~((values >= 0) & (values < len(names)) & (values == np.floor(values)))
    if bad.any() or values.shape[1] != 1:
        row = int(bad.any(1).argmax())
        raise DatasetError(f"{where}, row {row}: {values[row][:4]}, wanted one of 0 to {len(names) - 1}")
    return values[:, 0].astype(np.int64)


def add_arguments(
    parser: argparse.ArgumentParser,
    name: str,
    *,
    num_points: int = 1024,
    samplings: Sequence[str] = SAMPLINGS,
    root: str,
    up: str = "",
) -> None:
    """The options that every converter has; the first of ``samplings`` and ``up`` are the defaults."""
    parser.add_argument("--root", type=Path, required=True, help=root)
    parser.add_argument("--out", type=Path, default=Path(f"data/{name}/{name}.h5"))
    parser.add_argument(
        "--num-points", type=int, default=num_points, help="of a shape (default: %(default)s)"
    )
    parser.add_argument(
        "--sampling",
        choices=samplings,
        default=samplings[0],
        help="how points are chosen (default: %(default)s)",
    )
    parser.add_argument(
        "--orient",
        choices=ORIENTATIONS,
        default=ORIENTATIONS[0],
        help="of normals that have to be estimated: away from the centroid, or as the eigensolver leaves "
        "them (as published)",
    )
    parser.add_argument(
        "--up", choices=AXES, help=f"the axis that points up (default: {up or 'as in its files'})"
    )
    parser.add_argument("--float32", action="store_true", help="store float32, not int16 and int8")
    parser.add_argument("--seed", type=int, default=0)
    add_workers(parser)
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="write what there is: leave out damaged shapes, warn where the published counts are not met",
    )


def prepare(
    args: argparse.Namespace,
    shapes: Mapping[str, Sequence[Any]],
    read: Callable[[Any], Shape],
    source: Source,
    classes: Sequence[str],
    part_classes: Sequence[str] = (),
    *,
    counts: Mapping[str, int] | None = None,
    normalize: str = "sampled",
    up: str = "z",
) -> str:
    """Read, sample, check and write; returns a table of what the file holds.

    Args:
        args: the options of :func:`add_arguments`.
        shapes: split -> what ``read`` makes a Shape of; ``str()`` of it is what errors name.
        read: a function of a module (processes import it), which raises ValueError or OSError.
        counts: split -> number of shapes as published, where it is known.
        up: the axis that points up in the data, where ``args.up`` does not say another.

    Raises:
        DatasetError: without ``args.allow_partial``, a shape that cannot be used or a count that is not the
            published one; always, a split without shapes.
    """
    if args.num_points < 1:
        raise DatasetError(f"--num-points is {args.num_points}, wanted at least 1")
    recipe = Recipe(args.num_points, args.sampling, normalize, args.orient, args.seed)
    splits, lines = {}, []
    for split, items in shapes.items():
        expected = (counts or {}).get(split, len(items))
        if len(items) != expected:
            problem = f"split '{split}': {len(items)} shapes, published are {expected}"
            if not args.allow_partial:
                source.missing(f"{args.root}: {problem} (--allow-partial takes what there is)")
            lines.append(f"warning: {problem}")
        good, bad = _read_all(items, read, recipe, args.workers)
        if bad and not args.allow_partial:
            raise DatasetError(
                f"{bad[0]} ({len(bad)} of {len(items)} shapes of split '{split}' cannot be used; "
                "--allow-partial leaves them out)"
            )
        lines += [f"warning: left out {line}" for line in bad]
        if not good:
            raise DatasetError(f"{args.root}: split '{split}': no shape can be used")
        splits[split] = _stored(good, args.float32)
        lines += _notes(good)
    up = args.up or up
    info = FileInfo(tuple(classes), tuple(part_classes), source.licence, source.attribution, up)
    write_clouds(args.out, splits, info)
    width = max(map(len, classes)) + 1
    lines.append(" ".join([f"{'class':{width}}", *(f"{split:>9}" for split in splits)]))
    for i, name in enumerate(classes):
        lines.append(" ".join([f"{name:{width}}", *(f"{(c.label == i).sum():9}" for c in splits.values())]))
    totals = ", ".join(f"{len(clouds)} {split}" for split, clouds in splits.items())
    stored = " and ".join(sorted({clouds.points.dtype.name for clouds in splits.values()}))
    size = f"{args.out.stat().st_size / 1e6:.2f} MB"
    lines.append(f"{args.out}: {totals}, {size}; {up} is up, points as {stored}")
    return "\n".join(lines)


def _notes(shapes: Sequence[Shape]) -> list[str]:
    """Notes of the shapes' files, those that differ in numbers only as one."""
    alike: dict[str, list[str]] = {}
    for shape in shapes:
        for note in shape.notes:
            alike.setdefault(re.sub(r"[-+.\de]*\d", "#", note), []).append(f"{shape.name}: {note}")
    return [
        f"note: {notes[0]}" + f" (and {len(notes) - 1} more)" * (len(notes) > 1) for notes in alike.values()
    ]


def _read_one(item: Any, read: Callable[[Any], Shape], recipe: Recipe) -> Shape | str:
    """The shape as the recipe makes it, or why there is none."""
    try:
        return recipe(read(item))
    except (ValueError, OSError) as error:
        message = " ".join(str(error).split())
        name = str(item.name if isinstance(item, Shape) else item)
        return message if name in message else f"{name}: {message}"


def _read_all(items, read, recipe, workers) -> tuple[list[Shape], list[str]]:
    job = partial(_read_one, read=read, recipe=recipe)
    done = list(run_workers(job, items, workers))
    return [d for d in done if isinstance(d, Shape)], [d for d in done if isinstance(d, str)]


def same(shape: Shape) -> Shape:
    """What reads a shape that is in memory already."""
    return shape


def _stored(shapes: Sequence[Shape], float32: bool) -> Clouds:
    """int16 and int8 where the coordinates allow it and nothing else is asked for.

    int16 has steps of 1/32767: coordinates in -1..1 fit, of clouds so large that a step is nothing to them.
    """
    points = np.stack([shape.points for shape in shapes])
    normals = np.stack([shape.normals for shape in shapes])
    extent = np.ptp(points, axis=1).max(1)
    coarse = (extent > 0) & (STORING * extent < 0.5 / POINT_SCALE)
    if float32 or np.abs(points).max() > 1 + 1e-6 or coarse.any():
        points = points.astype(np.float32)
    else:
        points = encode_points(points)
    has_part = shapes[0].part is not None
    return Clouds(
        points=points,
        normals=normals.astype(np.float32) if float32 else encode_normals(normals),
        label=np.array([shape.label for shape in shapes], np.int32),
        part=np.stack([shape.part for shape in shapes]).astype(np.uint8) if has_part else None,
        name=np.array([shape.name for shape in shapes], str),
    )
