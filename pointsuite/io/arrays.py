"""Files that hold plain arrays: npz and npy."""

import io
import math
import zipfile
from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np

from pointsuite.engine.errors import UsageError
from pointsuite.io.fields import PART, WHOLE, by_name, by_values, split_names
from pointsuite.io.point_file import Arrays, PointFileError, check_room


@contextmanager
def whole(kind: str):
    """Turns what the libraries raise at a damaged file, which is of many and undocumented types, into one."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        # Some messages quote the file's bytes at length.
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise PointFileError(f"found no readable {kind} ({reason}), wanted a whole file") from None


def read_npz(data: bytes) -> Arrays:
    """The arrays called as in :data:`pointsuite.io.fields.WHOLE`; the part of each point as in `PART`."""
    arrays, names = Arrays(), npz_names(data)
    taken = {}
    for quantity, keys in WHOLE.items():
        taken[quantity] = next((key for key in keys if key in names), None)
    if taken["points"] is None:
        raise PointFileError(f"found the keys {names}, wanted one of {', '.join(WHOLE['points'])}")
    parts = [key for key in PART if key in names]
    found = load_npz(data, [*filter(None, taken.values()), *parts])
    arrays.update({quantity: found[key] for quantity, key in taken.items() if key is not None})
    for key in parts:  # a label of the whole cloud is no part
        if "part" not in arrays and (key == "part" or found[key].ndim == 1 and found[key].size > 1):
            arrays["part"] = found[key]
            taken["part"] = key
    left = [name for name in names if name not in taken.values()]
    if left:
        arrays.notes.append(f"left out the arrays {', '.join(left[:12])}")
    return arrays


def npz_names(data: bytes) -> list[str]:
    """The names of an archive's arrays; PointFileError where one comes twice."""
    with whole("npz arrays"), zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    if len(set(names)) < len(names):
        raise PointFileError(f"found the keys {names[:12]}, wanted different ones")
    return names


def load_npz(data: bytes, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of an archive, whose sizes are checked before they are unpacked.

    Raises:
        PointFileError: no such array, one that is damaged, holds objects or is not as large as it says, or
            more bytes than such a file should hold.
    """
    arrays = {}
    with whole("npz arrays"), zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: info for info in archive.infolist()}
        wanted = {name: f"{name}.npy" if f"{name}.npy" in members else name for name in names}
        if missing := [name for name, member in wanted.items() if member not in members]:
            raise PointFileError(f"found the keys {sorted(members)[:12]}, wanted {missing[0]}")
        check_room(sum(members[member].file_size for member in wanted.values()), len(data), "arrays")
        for name, member in wanted.items():
            with archive.open(members[member]) as file:
                arrays[name] = load_npy(file, members[member].file_size)
    return arrays


def read_npy(data: bytes, columns: str | Sequence[str] | None = None) -> Arrays:
    """An array (N, 3), (N, 6) or (N, 9), one whose columns `columns` names, or a structured one (N,)."""
    with whole("npy array"):
        array = load_npy(io.BytesIO(data), len(data))
    if array.dtype.names:
        return _structured(array)
    if columns is None:
        return by_values(array)
    names = split_names(columns)
    if array.ndim != 2 or array.shape[1] != len(names) or array.dtype.kind not in "iuf":
        found = f"found an array {array.dtype} {array.shape}"
        raise PointFileError(f"{found}, wanted numbers (N, {len(names)}) for {' '.join(names)}")
    return by_name(names, array.T)


def load_npy(file, size: int) -> np.ndarray:
    """The array of a stream of `size` bytes, as long as its header says; raises anything."""
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise PointFileError(f"found version {version} of the npy format, wanted 1.0 or 2.0")
    shape, _, kind = read_header[version](file)
    if kind.hasobject:
        raise ValueError("objects, which allow_pickle=False keeps out")
    start = file.tell()
    needed = math.prod(shape) * kind.itemsize
    if needed != size - start:
        raise PointFileError(
            f"found {size - start} bytes after the npy header, wanted {needed} by its shape {shape}"
        )
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _structured(array: np.ndarray) -> Arrays:
    """Named fields, each a number or three of them."""
    if array.ndim != 1:
        raise PointFileError(f"found a structured array of shape {array.shape}, wanted (N,)")
    names, columns = [], []
    for name in array.dtype.names:
        kind, quantity = array.dtype[name], next((q for q, keys in WHOLE.items() if name in keys), None)
        if quantity is not None and kind.shape == (3,):
            axes = {"points": "xyz", "normals": ("nx", "ny", "nz"), "colors": ("red", "green", "blue")}
            names += axes[quantity]
            columns += list(array[name].T)
        else:
            names.append(name if not kind.shape else f"{name} {kind.shape}")
            columns.append(array[name])
    return by_name(names, columns, "fields")
