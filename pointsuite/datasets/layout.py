"""The one HDF5 layout of labelled point clouds: what it holds, how it is checked, written and read.

A file has one group a split (``train`` and ``test``; any names are allowed). M clouds of N points each::

    points   (M, N, 3)  int16, the coordinate times 32767; or float32
    normals  (M, N, 3)  int8, the component times 127; or float32. Scaled to unit length when read
    label    (M,)       integers that index the root attribute ``classes``
    part     (M, N)     optional: uint8 that index the root attribute ``part_classes``; 255 is unlabelled
    family   (M,)       optional: integers or UTF-8 strings; no family is in two splits of a fair file
    name     (M,)       optional: UTF-8 strings, where the shape came from

Root attributes: ``format`` = "pointsuite.clouds", ``version`` = 1, ``classes`` and ``part_classes`` (lists of
names), ``up`` ("x", "y" or "z", the axis that points up; "z" where it is missing), ``licence`` and
``attribution`` (text). Data sets of other formats are converted to this one.
"""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from pointsuite.engine.checkpoint import atomic_write
from pointsuite.engine.errors import UsageError
from pointsuite.engine.files import FileError
from pointsuite.io import PointFileError
from pointsuite.io.hdf5 import Hdf5File, open_hdf5
from pointsuite.io.point_file import LARGEST, SMALLEST

FORMAT = "pointsuite.clouds"
VERSION = 1
POINT_SCALE = 32767
NORMAL_SCALE = 127
MIN_NORMAL = 0.5  # shortest normal that still is a unit normal rounded to int8 (shortest then: about 0.98)
MAX_NORMAL = 2.0
AXES = ("x", "y", "z")
UNLABELLED = 255  # part of a point that has none
IGNORED = -100  # the same in a sample: PyTorch's losses leave such points out


class DatasetError(UsageError):
    """Data that cannot be used; one line that names the file, the split, the key and the row."""


@dataclass(frozen=True)
class Clouds:
    """One split in the stored dtypes; shapes and dtypes as in the layout above."""

    points: np.ndarray
    normals: np.ndarray
    label: np.ndarray
    part: np.ndarray | None = None
    family: np.ndarray | None = None
    name: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.label)

    def select(self, rows) -> "Clouds":
        """The clouds that ``rows`` (indices or mask) picks, in that order."""
        return replace(self, **{key: value[rows] for key, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class FileInfo:
    """The root attributes of a file."""

    classes: tuple[str, ...]
    part_classes: tuple[str, ...] = ()
    licence: str = ""
    attribution: str = ""
    up: str = "z"


_DTYPES = {"points": ("int16", "float32"), "normals": ("int8", "float32"), "part": ("uint8",)}
_KINDS = {"label": ("iu", "integers"), "family": ("iuU", "integers or strings"), "name": ("U", "strings")}
_BLOCK = 256  # clouds whose normals are checked at once
_CHUNK = 32  # clouds compressed together: more gain little


def decode_points(points: np.ndarray) -> np.ndarray:
    """Stored points -> float32 coordinates, same shape."""
    return points / np.float32(POINT_SCALE) if points.dtype == np.int16 else points.astype(np.float32)


def decode_normals(normals: np.ndarray) -> np.ndarray:
    """Stored normals -> float32 vectors of unit length, same shape."""
    normals = normals.astype(np.float32)
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def encode_points(points: np.ndarray) -> np.ndarray:
    """Coordinates in [-1, 1] -> int16.

    Raises:
        ValueError: a coordinate lies outside of [-1, 1] or is not finite.
    """
    if not np.abs(points).max(initial=0) <= 1 + 1e-6:
        raise ValueError(f"points: coordinates must lie in [-1, 1], found {np.abs(points).max()}")
    return np.round(np.clip(points, -1, 1) * POINT_SCALE).astype(np.int16)


def encode_normals(normals: np.ndarray) -> np.ndarray:
    """Unit vectors -> int8."""
    return np.round(normals * NORMAL_SCALE).astype(np.int8)


def validate_clouds(clouds: Clouds, info: FileInfo, where: str) -> None:
    """Check one split against the layout; ``where`` is what errors name, e.g. "data.h5: split 'train'".

    Raises:
        DatasetError: wrong shape or dtype, no cloud, a label or part out of range, a coordinate or normal
            that is not finite, a normal of no length or of far more than 1, coordinates whose products
            float32 cannot hold, a cloud that was never written (all zero), a name that comes twice.
    """

    def fail(key: str, problem: str, bad_rows: np.ndarray | None = None):
        row = "" if bad_rows is None else f", row {int(np.flatnonzero(bad_rows)[0])}"
        raise DatasetError(f"{where}, key '{key}'{row}: {problem}")

    check_info(info, where)
    shape = clouds.points.shape
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        fail("points", f"shape {shape}, wanted (M, N, 3) with M and N at least 1")
    wanted_shape = {"points": shape, "normals": shape, "part": shape[:2]}
    for key, value in vars(clouds).items():
        if value is None:
            continue
        wanted = wanted_shape.get(key, shape[:1])
        if value.shape != wanted:
            fail(key, f"shape {value.shape}, wanted {wanted} to match points {shape}")
        if key in _DTYPES and value.dtype.name not in _DTYPES[key]:
            fail(key, f"dtype {value.dtype}, wanted {' or '.join(_DTYPES[key])}")
        if key in _KINDS and value.dtype.kind not in _KINDS[key][0]:
            fail(key, f"dtype {value.dtype}, wanted {_KINDS[key][1]}")

    for key, names in (("label", info.classes), ("part", info.part_classes)):
        value = getattr(clouds, key)
        if value is None:
            continue
        outside = (value < 0) | (value >= len(names))
        if key == "part":
            outside &= value != UNLABELLED
        outside = outside.reshape(len(value), -1)
        if outside.any():
            bad = value.reshape(outside.shape)[outside][0]
            fail(key, f"{bad} is out of range, wanted 0 to {len(names) - 1}", outside.any(1))
    for key in ("points", "normals"):
        value = getattr(clouds, key)
        infinite = ~np.isfinite(value).all((1, 2))
        if infinite.any():
            fail(key, "holds NaN or infinity", infinite)
    if shape[1] > 1 and (unwritten := ~clouds.points.any((1, 2))).any():
        fail("points", "all coordinates are 0, as of data that was never written", unwritten)
    low, high = (function(clouds.points, axis=1).astype(np.float64) for function in (np.min, np.max))
    extent = (high - low).max(1)
    wide = (np.maximum(-low, high).max(1) > LARGEST) | ((extent > 0) & (extent < SMALLEST))
    if clouds.points.dtype != np.int16 and wide.any():
        fail("points", f"wanted coordinates up to {LARGEST:g}, and an extent of {SMALLEST:g} at least", wide)
    unit = NORMAL_SCALE if clouds.normals.dtype == np.int8 else 1
    length = np.empty(shape[:2], np.float32)
    for first in range(0, len(length), _BLOCK):
        rows = slice(first, first + _BLOCK)
        with np.errstate(over="ignore"):
            length[rows] = np.linalg.norm(clouds.normals[rows].astype(np.float32) / unit, axis=2)
    for problem, bad in (("no length", length < MIN_NORMAL), ("a length above 2", ~(length <= MAX_NORMAL))):
        if bad.any():
            fail("normals", f"a normal has {problem}, wanted unit vectors", bad.any(1))


def check_info(info: FileInfo, where: str) -> None:
    """Raise DatasetError where names come twice or are empty, or no axis is up."""
    for key in ("classes", "part_classes"):
        names = getattr(info, key)
        if len(set(names)) < len(names) or "" in names:
            raise DatasetError(f"{where}: attribute '{key}' is {list(names)[:12]}, wanted different names")
    if info.up not in AXES:
        raise DatasetError(f"{where}: attribute 'up' is {info.up!r}, wanted one of {', '.join(AXES)}")


def write_clouds(
    path: str | os.PathLike, splits: Mapping[str, Clouds], info: FileInfo, *, max_bytes: int | None = None
) -> None:
    """Validate ``splits`` and write them to ``path``, all or nothing.

    Raises:
        DatasetError: the data does not fit the layout, or the file would be larger than ``max_bytes``. What
            was at ``path`` is still there.
    """
    path = Path(path)
    if not splits:
        raise DatasetError(f"{path}: nothing to write, wanted at least one split")
    for split, clouds in splits.items():
        validate_clouds(clouds, info, f"{path}: split '{split}'")
    buffer = io.BytesIO()  # HDF5's own errors of a full disk reach nobody
    with h5py.File(buffer, "w", libver=("v110", "v110")) as file:  # with checksums of all but the data
        file.attrs.update(format=FORMAT, version=VERSION)
        file.attrs.update(licence=info.licence, attribution=info.attribution, up=info.up)
        for key in ("classes", "part_classes"):
            file.attrs[key] = np.array(getattr(info, key), dtype=h5py.string_dtype())
        for split, clouds in splits.items():
            group = file.create_group(split)
            for key, value in vars(clouds).items():
                if value is not None:
                    chunks = (min(_CHUNK, len(value)), *value.shape[1:]) if value.ndim > 1 else True
                    data = _storable(value)
                    group.create_dataset(key, data=data, chunks=chunks, compression=9, shuffle=True)
    size = buffer.getbuffer().nbytes
    if max_bytes is not None and size > max_bytes:
        raise DatasetError(
            f"{path}: the file would have {size / 1e6:.2f} MB, wanted at most {max_bytes / 1e6:g} MB: "
            "take fewer shapes or points"
        )
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def _storable(values: np.ndarray) -> np.ndarray:
    """Strings as fixed-length UTF-8 (which compresses), everything else as it is."""
    if values.dtype.kind != "U":
        return values
    encoded = np.char.encode(values, "utf-8")
    return encoded.astype(h5py.string_dtype("utf-8", max(encoded.dtype.itemsize, 1)))


def read_info(path: str | os.PathLike) -> FileInfo:
    """Root attributes of ``path``; raises what ``read_clouds`` raises."""
    with _open(path) as file:
        return _info(file, path)


def read_clouds(path: str | os.PathLike, split: str) -> tuple[Clouds, FileInfo]:
    """Read and validate one split.

    Raises:
        FileNotFoundError: no such file.
        DatasetError: not HDF5, truncated, another format, a split or key is missing, or the data is bad (see
            :func:`validate_clouds`).
    """
    with _open(path) as file:
        info = _info(file, path)
        if split not in (splits := file.names()):
            raise DatasetError(f"{path}: no split '{split}', the file has {splits}")
        where, arrays = f"{path}: split '{split}'", {}
        names = file.names(split)
        for key, field in Clouds.__dataclass_fields__.items():
            if key not in names:
                if field.default is None:
                    continue
                raise DatasetError(f"{where}: key '{key}' is missing, the split has {names}")
            try:
                arrays[key] = file.read(f"{split}/{key}")
            except Exception as error:
                raise DatasetError(f"{where}, key '{key}': cannot be read ({_line(error)})") from error
    clouds = Clouds(**arrays)
    validate_clouds(clouds, info, where)
    return clouds, info


@contextmanager
def _open(path: str | os.PathLike) -> Iterator[Hdf5File]:
    try:
        with open_hdf5(path) as file:
            yield file
    except FileError as error:
        if Path(path).exists():
            raise DatasetError(str(error)) from None
        raise FileNotFoundError(
            f"{path}: no such file; `python tools/prepare_dataset.py --help` says how data files are made"
        ) from None
    except PointFileError as error:
        raise DatasetError(f"{path}: truncated, damaged or not an HDF5 file ({_line(error)})") from error


def _info(file: Hdf5File, path: str | os.PathLike) -> FileInfo:
    attributes = dict(file.file.attrs)
    found = (attributes.get("format"), attributes.get("version"))
    if not (isinstance(found[0], str) and found[0] == FORMAT and np.array_equal(found[1], VERSION)):
        raise DatasetError(
            f"{path}: format and version are {found}, wanted {(FORMAT, VERSION)}: "
            "a file written by pointsuite.datasets.write_clouds"
        )
    values = {}
    for key in FileInfo.__dataclass_fields__:
        if key not in attributes:
            if key == "up":  # of files from before there was one
                continue
            raise DatasetError(f"{path}: root attribute '{key}' is missing, found {sorted(attributes)}")
        names, value = key in ("classes", "part_classes"), attributes[key]
        if names and np.size(value) == 0:
            value = ()
        elif not (all(isinstance(each, str) for each in np.ravel(value)) and np.ndim(value) == int(names)):
            wanted = "a list of names" if names else "text"
            raise DatasetError(f"{path}: root attribute '{key}' is {str(value)[:60]!r}, wanted {wanted}")
        values[key] = tuple(str(name) for name in value) if names else str(value)
    info = FileInfo(**values)
    check_info(info, str(path))
    return info


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
