"""Arrays in files of NumPy and MATLAB, read within a limit of memory."""

import io
import math
import os
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from scipy.io import loadmat

from pointsuite.engine.files import FileError, read_bytes

MAX_BYTES = 1 << 30  # that a file may hold, unpacked


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """An array of a ``.npy`` file; raises FileError."""
    data = read_bytes(path, "an array of NumPy")
    try:
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        read_head = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, kind = read_head(file)
        if kind.hasobject or math.prod(shape) * kind.itemsize != len(data) - file.tell():
            raise ValueError(f"found {len(data) - file.tell()} bytes for {shape} of {kind}")
        return np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # of many types where a file is damaged
        raise _unreadable(path, "an array of NumPy", error) from error


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Arrays of a ``.npz`` file by name; raises FileError."""
    data = read_bytes(path, "arrays of NumPy")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_size(sum(info.file_size for info in archive.infolist()))
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {key: file[key] for key in file}
    except Exception as error:
        raise _unreadable(path, "arrays of NumPy", error) from error


def read_mat(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Variables of a MATLAB file (version 4 to 7) by name; raises FileError."""
    data = read_bytes(path, "a file of MATLAB")
    try:
        _check_size(sum(_unpacked_sizes(data)))
        return loadmat(io.BytesIO(data))
    except Exception as error:
        raise _unreadable(path, "a file of MATLAB", error) from error


def _unpacked_sizes(data: bytes) -> Iterator[int]:
    """Of the packed variables of version 7."""
    place, order = 128, "big" if data[126:128] == b"MI" else "little"
    while data[126:128] in (b"MI", b"IM") and place + 8 <= len(data):
        kind, size = (int.from_bytes(data[i : i + 4], order) for i in (place, place + 4))
        if kind == 15:
            head = zlib.decompressobj().decompress(data[place + 8 : place + 8 + size], 8)
            yield int.from_bytes(head[4:8], order)
        place += 8 + size


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"it unpacks to {size} bytes, more than {MAX_BYTES}")


def _unreadable(path: str | os.PathLike, wanted: str, error: Exception) -> FileError:
    said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return FileError(path, f"not {wanted} that can be read ({said})")
