"""Files that hold plain arrays: the suite's HDF5, npz, npy, and tables of text."""

import io
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from pointsuite.io.point_file import PointFileError, filled_lines


@contextmanager
def _whole(kind: str):
    """Turns what the libraries raise at a damaged file, which is of many and undocumented types, into one."""
    try:
        yield
    except PointFileError:
        raise
    except Exception as error:
        # Some messages quote the file's bytes at length.
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise PointFileError(f"found no readable {kind} ({reason}), wanted a whole file") from None


def read_h5(path: Path, split: str, index: int) -> dict[str, np.ndarray]:
    """Row `index` of group `split` of a data set of this suite: points (M, N, 3) int16 / 32767 or float,
    and normals (M, N, 3) int8 / 127 or float, colors (M, N, 3), part (M, N) where it has them."""
    arrays = {}
    with _whole("HDF5 data"), h5py.File(path) as file:
        if not isinstance(file.get(split), h5py.Group):
            raise PointFileError(f"found the groups {sorted(file)}, wanted {split!r}")
        group = file[split]
        if not isinstance(group.get("points"), h5py.Dataset) or group["points"].ndim != 3:
            raise PointFileError(f"found {sorted(group)} in {split!r}, wanted points of shape (M, N, 3)")
        for name in ("points", "normals", "colors", "part"):
            if name in group:
                if not 0 <= index < len(group[name]):
                    raise PointFileError(
                        f"found {len(group[name])} rows in {split}/{name}, wanted a row {index}"
                    )
                arrays[name] = group[name][index]
    for name, stored, scale in (("points", np.int16, 32767), ("normals", np.int8, 127)):
        if name in arrays and arrays[name].dtype == stored:
            arrays[name] = arrays[name].astype(np.float32) / scale
        elif name in arrays and arrays[name].dtype.kind != "f":
            raise PointFileError(
                f"found {name} of type {arrays[name].dtype}, wanted {stored.__name__} or float"
            )
    return arrays


_NAMES = {
    "points": ("points", "xyz", "pos"),
    "normals": ("normals", "normal"),
    "colors": ("colors", "color", "rgb"),
    "part": ("part",),
}


def read_npz(data: bytes) -> dict[str, np.ndarray]:
    arrays = {}
    with _whole("npz arrays"), np.load(io.BytesIO(data), allow_pickle=False) as file:
        for name, keys in _NAMES.items():
            for key in keys:
                if key in file:
                    arrays.setdefault(name, file[key])
        if "points" not in arrays:
            raise PointFileError(f"found the keys {list(file)}, wanted one of {', '.join(_NAMES['points'])}")
    return arrays


def read_npy(data: bytes) -> dict[str, np.ndarray]:
    stream = io.BytesIO(data)
    with _whole("npy array"):
        array = np.lib.format.read_array(stream, allow_pickle=False)
    if rest := stream.read():
        raise PointFileError(f"found {len(rest)} bytes after the array, wanted none")
    return columns(array)


def read_text(data: bytes) -> dict[str, np.ndarray]:
    """Rows of 3, 6 or 9 numbers between commas or blanks; a line of names may lead; `#` comments."""
    lines = filled_lines(data)
    if lines and not any(_is_number(field) for field in lines[0].replace(",", " ").split()):
        del lines[0]
    if not lines:
        raise PointFileError("found no rows of numbers, wanted at least 1")
    delimiter = "," if "," in lines[0] else None
    try:
        table = np.loadtxt(lines, np.float64, comments=None, delimiter=delimiter, ndmin=2)
    except ValueError as error:
        raise PointFileError(f"found {error}, wanted rows of 3, 6 or 9 numbers") from None
    return columns(table)


def columns(table: np.ndarray) -> dict[str, np.ndarray]:
    """xyz and, three columns each, normals (rows of length 1) and colors (0..1 or 0..255) in either order."""
    if table.dtype.kind not in "iuf" or table.ndim != 2 or table.shape[1] not in (3, 6, 9):
        raise PointFileError(
            f"found an array {table.dtype} {table.shape}, wanted numbers (N, 3), (N, 6) or (N, 9)"
        )
    arrays = {"points": table[:, :3]}
    for first in range(3, table.shape[1], 3):
        three = table[:, first : first + 3]
        with np.errstate(all="ignore"):  # NaN and infinity are refused with the other numbers, later
            length = np.linalg.norm(three.astype(np.float64), axis=1)
        if "normals" not in arrays and ((abs(length - 1) < 0.05) | (length == 0)).all():
            arrays["normals"] = three
        elif "colors" not in arrays and ((three >= 0) & (three <= 255)).all():
            arrays["colors"] = three
        else:
            raise PointFileError(
                f"found columns {first + 1}-{first + 3} that are neither normals of length 1 nor colors "
                "(0..1 or 0..255), wanted one of each at most"
            )
    return arrays


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
