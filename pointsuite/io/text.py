"""Tables of text: txt, xyz, csv."""

import re
from collections.abc import Sequence

import numpy as np

from pointsuite.io.fields import TELL, by_name, by_values, plain_name, split_names
from pointsuite.io.point_file import Arrays, PointFileError, split_lines, text_of

_BLANK = re.compile(r"\n[\n\r]+")  # lines, of which a file may have millions


def read_text(data: bytes, columns: str | Sequence[str] | None = None) -> Arrays:
    """Rows of numbers between blanks, commas or semicolons.

    The columns are what `columns` says, else what a first line of names says, also one behind `#` or `//`;
    without either they are found as :func:`pointsuite.io.fields.by_values` does. What follows a `#` is a
    comment. The number of rows may stand before them.
    """
    names, lines = _split(text_of(data), columns is not None)
    if len(lines) > 1 and lines[0] == str(len(lines) - 1):
        del lines[0]
    if not lines:
        raise PointFileError("found no rows of numbers, wanted at least 1")
    table = parse_table(lines)
    if columns is not None:
        names = split_names(columns)
    if names is None:
        return by_values(table)
    if len(names) != table.shape[1]:
        raise PointFileError(
            f"found {len(names)} names ({' '.join(names)[:60]}) over {table.shape[1]} columns, wanted as many"
        )
    return by_name(names, table.T)


def parse_table(lines: Sequence[str]) -> np.ndarray:
    """Rows as float64 (N, columns)."""
    delimiter = next((sign for sign in ",;" if sign in lines[0]), None)
    if delimiter == "," and ";" in lines[0]:
        raise PointFileError(f"found {lines[0][:60]!r}, wanted decimal points, not commas")
    try:
        return np.loadtxt(lines, np.float64, comments=None, delimiter=delimiter, ndmin=2)
    except ValueError as error:
        found = " ".join(str(error).split())[:160]
        raise PointFileError(f"found {found}, wanted rows of 3, 6 or 9 numbers, or {TELL}") from None


def _split(text: str, told: bool) -> tuple[list[str] | None, list[str]]:
    """The names of the columns, if a line has them, and the lines of data."""
    names, lines = None, []
    for raw in split_lines(_BLANK.sub("\n", text)):
        line, sign, comment = raw.partition("#")
        line = line.strip()
        if line.startswith("//"):
            line, comment = "", line[2:]
        if line:
            lines.append(line)
        elif not lines and _are_names(found := _fields(comment.lstrip("#/"))):
            names = found
    if lines and not any(_is_number(field) for field in _fields(lines[0])):
        found = _fields(lines.pop(0))
        if not told and not _are_names(found):
            raise PointFileError(
                f"found the first row {' '.join(found)[:60]!r}, wanted numbers, or names with x, y and z"
            )
        names = found
    return names, lines


def _fields(line: str) -> list[str]:
    sign = next((sign for sign in ",;\t" if sign in line), None)
    return [field.strip() for field in line.strip().split(sign)] if line.strip() else []


def _are_names(fields: Sequence[str]) -> bool:
    """Whether a line names columns: it has x, y and z in one of their spellings."""
    try:
        return len(fields) > 2 and bool(by_name(fields, [np.empty(0)] * len(fields)))
    except PointFileError:
        return {"x", "y", "z"} <= {plain_name(field) for field in fields}


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
