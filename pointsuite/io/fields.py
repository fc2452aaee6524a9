"""Which column is what: by its name where it has one, by its values where nothing else fits them."""

import re
from collections.abc import Sequence

import numpy as np

from pointsuite.io.point_file import Arrays, PointFileError

# What three columns are called, of which the first that is there in full is taken. Case does not count, nor
# does "scalar_" before a name (CloudCompare), a unit behind it, or which sign joins its words.
SPELLINGS = {
    "points": (
        ("x", "y", "z"),
        ("px", "py", "pz"),
        ("pos_x", "pos_y", "pos_z"),
        ("position_x", "position_y", "position_z"),
        ("point_x", "point_y", "point_z"),
        ("points_0", "points_1", "points_2"),
    ),
    "normals": (
        ("nx", "ny", "nz"),
        ("normal_x", "normal_y", "normal_z"),
        ("normalx", "normaly", "normalz"),
        ("n_x", "n_y", "n_z"),
        ("norm_x", "norm_y", "norm_z"),
        ("normals_x", "normals_y", "normals_z"),
        ("normals_0", "normals_1", "normals_2"),
        ("normal_0", "normal_1", "normal_2"),
    ),
    "colors": (
        ("red", "green", "blue"),
        ("r", "g", "b"),
        ("diffuse_red", "diffuse_green", "diffuse_blue"),
        ("color_red", "color_green", "color_blue"),
        ("color_r", "color_g", "color_b"),
        ("colors_0", "colors_1", "colors_2"),
        ("rf", "gf", "bf"),
    ),
}
# The part of each point: one column, the first of these names.
PART = ("part", "part_id", "label", "labels", "class", "class_id", "classification", "segment")
# Arrays of three columns under one name, in npz files and structured arrays.
WHOLE = {
    "points": ("points", "xyz", "pos", "positions", "vertices"),
    "normals": ("normals", "normal"),
    "colors": ("colors", "color", "rgb"),
}
SKIPPED = ("_", "-", "")  # names of columns that are to be passed over
TELL = "columns='x y z nx ny nz' names them (r g b, part; _ passes one over)"


def plain_name(name: str) -> str:
    """A name as :data:`SPELLINGS` has it."""
    name = re.sub(r"\s*[\[(].*?[\])]\s*$", "", name.strip().strip("\"'").strip().lower())
    return re.sub(r"[\s.:\-]+", "_", name).removeprefix("scalar_") if len(name) > 1 else name


def split_names(columns: str | Sequence[str]) -> list[str]:
    """The names of `columns="x y z"`, ["x", "y", "z"] and the like."""
    return columns.replace(",", " ").split() if isinstance(columns, str) else list(columns)


def by_name(names: Sequence[str], columns: Sequence[np.ndarray], what: str = "columns") -> Arrays:
    """Points, and normals, colors and part as far as columns are so called; notes name what is left out.

    Args:
        names: of the columns, in any of :data:`SPELLINGS`.
        columns: each (N,).
        what: the columns are called in messages.

    Raises:
        PointFileError: no x, y and z; a name twice; or some but not all columns of one quantity.
    """
    plain = [plain_name(name) for name in names]
    known = {name for groups in SPELLINGS.values() for group in groups for name in group} | {*PART}
    twice = next((name for i, name in enumerate(plain) if name in known and name in plain[:i]), None)
    if twice is not None:
        raise PointFileError(f"found the {what} {_list(names)}, of which {twice} comes twice, wanted it once")
    arrays, taken = Arrays(), set(SKIPPED)
    for quantity, groups in SPELLINGS.items():
        group = next((group for group in groups if set(group) <= set(plain)), None)
        if group is not None:
            arrays[quantity] = np.stack([columns[plain.index(name)] for name in group], axis=1)
            taken.update(group)
            continue
        if quantity == "points":
            raise PointFileError(f"found the {what} {_list(names)}, wanted x, y and z")
        for group in groups:
            some = [name for name in group if name in plain]
            if len(some) > 1 or (some and len(some[0]) > 1):  # r alone may be a range, b a brightness
                raise PointFileError(
                    f"found the {what} {_list(names)} with {' and '.join(some)} alone, "
                    f"wanted {', '.join(group)} or none of them"
                )
    part = next((name for name in PART if name in plain), None)
    if part is not None:
        arrays["part"] = columns[plain.index(part)]
        taken.add(part)
    left = [name for name, key in zip(names, plain, strict=True) if key not in taken]
    if left:
        arrays.notes.append(f"left out the {what} {_list(left)}")
    return arrays


def by_values(table: np.ndarray) -> Arrays:
    """xyz and, three columns each, normals and colors in either order, where they can be nothing else.

    Normals are rows of length 1; colors are in 0..1, or whole numbers in 0..255. Columns that may be both
    are the one that the table does not have yet, if it has the other.

    Args:
        table: numbers (N, 3), (N, 6) or (N, 9).
    """
    if table.dtype.kind not in "iuf" or table.ndim != 2 or table.shape[1] not in (3, 6, 9):
        found = f"found an array {table.dtype} {table.shape}"
        raise PointFileError(
            f"{found}, wanted numbers (N, 3), (N, 6) or (N, 9); where there are more, {TELL}"
        )
    arrays = Arrays(points=table[:, :3])
    may_be = {first: _may_be(table[:, first : first + 3]) for first in range(3, table.shape[1], 3)}
    while may_be:
        first = min(may_be, key=lambda first: len(may_be[first] - arrays.keys()))
        kinds = may_be.pop(first) - arrays.keys()
        named = f"found columns {first + 1}-{first + 3} that"
        if not kinds:
            raise PointFileError(
                f"{named} are neither normals of length 1 nor colors (0..1 or 0..255), wanted one of each "
                f"at most; for others, {TELL}"
            )
        if len(kinds) > 1:
            raise PointFileError(f"{named} may be normals or colors, wanted to be told: {TELL}")
        quantity = kinds.pop()
        arrays[quantity] = table[:, first : first + 3]
        arrays.notes.append(f"took columns {first + 1}-{first + 3}, which nothing names, to be {quantity}")
    return arrays


def _may_be(three: np.ndarray) -> set[str]:
    kinds = set()
    with np.errstate(all="ignore"):  # NaN and infinity are refused with the other numbers, later
        length = np.linalg.norm(three.astype(np.float64), axis=1)
        full = 255 if (np.floor(three) == three).all() else 1
        if ((abs(length - 1) < 0.05) | (length == 0) | np.isnan(length)).all():
            kinds.add("normals")
        if (((three >= 0) & (three <= full)) | np.isnan(three)).all():
            kinds.add("colors")
    return kinds


def _list(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name)[:30] for name in names[:most]) + more
