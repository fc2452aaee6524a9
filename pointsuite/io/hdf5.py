"""HDF5 files, read strictly: a file holds what is read from it, and all of that was written."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import h5py
import numpy as np

from pointsuite.engine.files import open_regular
from pointsuite.io.arrays import whole
from pointsuite.io.point_file import GROWTH, ROOM, Arrays, PointFileError


@contextmanager
def open_hdf5(path: str | os.PathLike) -> Iterator["Hdf5File"]:
    """The file for reading; PointFileError without the file's name, and FileError where it is none."""
    with open_regular(path, "an HDF5 file") as file:
        size = os.fstat(file.fileno()).st_size
    with whole("HDF5 data"), h5py.File(path, "r") as file:
        yield Hdf5File(file, size)


class Hdf5File:
    """An open file, which keeps account of what is read.

    Data that lies in other files (external links, external storage, virtual data sets) is refused, as a file
    from elsewhere must not choose which files are read; so is what was declared but never written, which
    reads as zeros, and what would unpack to far more than the file holds.
    """

    def __init__(self, file: h5py.File, size: int):
        self.file, self.size, self.left = file, size, max(ROOM, GROWTH * size)

    def names(self, group: str = "/") -> list[str]:
        """What is in a group; PointFileError where there is no such group."""
        found = self._find(group)
        if not isinstance(found, h5py.Group):
            raise PointFileError(f"found no group {group!r}, wanted one of {sorted(self.file)}")
        return sorted(found)

    def has(self, name: str) -> bool:
        return self._find(name) is not None

    def dataset(self, name: str) -> h5py.Dataset:
        """An array that may be read."""
        dataset = self._find(name)
        if not isinstance(dataset, h5py.Dataset):
            raise PointFileError(f"found no array {name}, wanted one")
        if dataset.is_virtual or dataset.external:
            raise PointFileError(f"found {name} stored in other files, wanted it in this one")
        if dataset.shape is None:
            raise PointFileError(f"found {name} empty, wanted an array")
        if dataset.size:
            stored = dataset.id.get_storage_size()
            chunks = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks or (), strict=False))
            missing = chunks - dataset.id.get_num_chunks() if dataset.chunks else 0
            if not stored or missing:
                some = f"{missing} of {chunks} blocks of " if missing and stored else ""
                raise PointFileError(f"found {some}{name} never written, wanted data")
        return dataset

    def read(self, name: str, index: int | None = None) -> np.ndarray:
        """An array (text as str), or its row `index`."""
        dataset = self.dataset(name)
        text = h5py.check_string_dtype(dataset.dtype)
        if dataset.dtype.hasobject and text is None:
            raise PointFileError(f"found {name} of type {dataset.dtype}, wanted numbers or text")
        count = dataset.size if index is None else math.prod(dataset.shape[1:])
        self._take(max(count, math.prod(dataset.chunks or ())) * dataset.dtype.itemsize, name)
        if text is not None and text.length is None and dataset.ndim:
            return self._read_text(dataset, name)
        where = () if index is None else index
        return np.array(dataset.asstr()[where], str) if text is not None else dataset[where]

    def _read_text(self, dataset: h5py.Dataset, name: str) -> np.ndarray:
        """Text of any length: few at once, as each may be as long as the file, which only reading tells."""
        step, found = max(1, (1 << 28) // self.size), []
        for first in range(0, len(dataset), step):
            some = dataset.asstr()[first : first + step]
            longest = max(map(len, some.flat), default=0)
            self._take(4 * longest * some.size, name)
            found.append(np.array(some, str))
        return np.concatenate(found) if found else np.empty(0, str)

    def _take(self, needed: int, name: str) -> None:
        self.left -= needed
        if self.left < 0:
            raise PointFileError(
                f"found {name} of {needed} bytes in a file of {self.size}, wanted at most {ROOM >> 20} MB in "
                f"all, or {GROWTH} times the file"
            )

    def _find(self, name: str) -> h5py.Group | h5py.Dataset | None:
        found = self.file
        for step in filter(None, name.split("/")):
            if not isinstance(found, h5py.Group):
                return None
            link = found.get(step, getlink=True)
            if isinstance(link, h5py.ExternalLink | h5py.SoftLink):
                raise PointFileError(f"found {name} as a link, wanted the data itself")
            found = found.get(step)
        return found


def read_h5(path: str | os.PathLike, split: str, index: int) -> Arrays:
    """Row `index` of group `split` of a data set of this suite: points (M, N, 3) int16 / 32767 or float,
    and normals (M, N, 3) int8 / 127 or float, colors (M, N, 3), part (M, N) where it has them."""
    arrays = Arrays()
    with open_hdf5(path) as file:
        up = file.file.attrs.get("up")
        arrays.up = up if isinstance(up, str) and up in ("x", "y", "z") else "z"
        if split not in file.names():
            raise PointFileError(f"found the groups {file.names()}, wanted {split!r}")
        names = file.names(split)
        points = f"{split}/points"
        if "points" not in names or file.dataset(points).ndim != 3:
            raise PointFileError(f"found {names} in {split!r}, wanted points of shape (M, N, 3)")
        for name in ("points", "normals", "colors", "part"):
            if name in names:
                key = f"{split}/{name}"
                count = len(file.dataset(key)) if file.dataset(key).ndim else 0
                if not 0 <= index < count:
                    raise PointFileError(f"found {count} rows in {key}, wanted a row {index}")
                arrays[name] = file.read(key, index)
    for name, stored, scale in (("points", np.int16, 32767), ("normals", np.int8, 127)):
        if name in arrays and arrays[name].dtype == stored:
            arrays[name] = arrays[name].astype(np.float32) / scale
        elif name in arrays and arrays[name].dtype.kind != "f":
            raise PointFileError(
                f"found {name} of type {arrays[name].dtype}, wanted {stored.__name__} or float"
            )
    return arrays
