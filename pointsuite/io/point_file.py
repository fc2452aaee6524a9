"""What a point file holds once it is read, and the checks that every format shares."""

from typing import NamedTuple

import numpy as np


class PointFileError(ValueError):
    """A file that cannot be read right; its one line names the file, what was found and what was wanted."""


class PointFile(NamedTuple):
    points: np.ndarray  # float32 (N, 3), finite, N >= 1
    normals: np.ndarray | None = None  # float32 (N, 3), unit length; a zero normal stays zero
    colors: np.ndarray | None = None  # float32 (N, 3) in 0..1
    part: np.ndarray | None = None  # int64 (N,)


def checked(points, normals=None, colors=None, part=None) -> PointFile:
    """The arrays that a reader found, checked and converted; its PointFileError has no file name yet."""
    points = _rows(points, "points")
    if len(points) == 0:
        raise PointFileError("found no points, wanted at least 1")
    exact, points = points, _finite_float32(points, "points")
    exact = exact.astype(np.float64)
    extent = np.ptp(exact, axis=0).max()
    if extent > 0 and np.abs(exact - points).max() > 1e-3 * extent:
        raise PointFileError(
            f"found coordinates up to {np.abs(exact).max():.6g} over an extent of {extent:.6g}, "
            "which float32 cannot tell apart, wanted points nearer to the origin"
        )
    if normals is not None:
        normals = _finite_float32(_rows(normals, "normals", len(points)), "normals").astype(np.float64)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        normals = (normals / np.where(length > 0, length, 1)).astype(np.float32)
    if colors is not None:
        colors = _unit_colors(_rows(colors, "colors", len(points)))
    if part is not None:
        part = np.asarray(part)
        whole = part.dtype.kind in "iuf" and ((np.floor(part) == part) & (abs(part) < 2.0**31)).all()
        if not whole or part.shape != (len(points),):
            raise PointFileError(
                f"found part {part.dtype} {part.shape}, wanted whole numbers ({len(points)},)"
            )
        part = part.astype(np.int64)
    return PointFile(points, normals, colors, part)


def filled_lines(data: bytes) -> list[str]:
    """The lines of a text file, without comments (`#`) and blank lines."""
    # Bytes break at line ends only; in text "\x85", which is half an "Å", would break a line, too.
    lines = [raw.partition(b"#")[0].strip().decode("latin-1") for raw in data.splitlines()]
    return [line for line in lines if line]


def _rows(array, name: str, count: int | None = None) -> np.ndarray:
    array = np.asarray(array)
    wanted = f"wanted numbers of shape ({'N' if count is None else count}, 3)"
    if array.dtype.kind not in "iuf":
        raise PointFileError(f"found {name} of type {array.dtype}, {wanted}")
    if array.ndim != 2 or array.shape[1] != 3 or count not in (None, len(array)):
        raise PointFileError(f"found {name} of shape {array.shape}, {wanted}")
    return array


def _finite_float32(array: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite and is counted here
        array = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise PointFileError(
            f"found {len(bad)} of {len(array)} {name} that are NaN or infinite (the first in row {bad[0]}), "
            "wanted finite numbers"
        )
    return array


def _unit_colors(colors: np.ndarray) -> np.ndarray:
    kind, colors = colors.dtype, _finite_float32(colors, "colors")
    if kind.kind == "f":
        full = 255 if colors.max() > 1 else 1
    else:
        full = 65535 if kind == np.uint16 else 255
    colors = colors / np.float32(full)
    if colors.min() < 0 or colors.max() > 1:
        raise PointFileError(
            f"found colors from {colors.min() * full:g} to {colors.max() * full:g}, wanted 0..1 or 0..255"
        )
    return colors
