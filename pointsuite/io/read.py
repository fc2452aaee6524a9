"""`read_points`: any supported file, by its suffix."""

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pointsuite.engine.files import FileError, read_bytes
from pointsuite.io.arrays import read_npy, read_npz
from pointsuite.io.hdf5 import open_hdf5, read_h5
from pointsuite.io.mesh import read_obj, read_off, sample_surface
from pointsuite.io.pcd import read_pcd
from pointsuite.io.ply import read_ply
from pointsuite.io.point_file import Arrays, PointFile, PointFileError, checked
from pointsuite.io.text import read_text

logger = logging.getLogger(__name__)

_H5 = (".h5", ".hdf5")
_TABLES = {".npy": read_npy, ".txt": read_text, ".xyz": read_text, ".csv": read_text}
_READERS = {
    ".npz": read_npz,
    ".ply": read_ply,
    ".pcd": read_pcd,
    ".off": read_off,
    ".obj": read_obj,
    **_TABLES,
}
SUFFIXES = (*_H5, *_READERS)
MESH_SUFFIXES = (".off", ".obj", ".ply")


class Mesh(NamedTuple):
    """A surface of triangles."""

    vertices: np.ndarray  # float64 (V, 3), finite
    faces: np.ndarray  # int64 (T, 3), T >= 1
    notes: tuple[str, ...]  # what was left out of the file or had to be decided


def read_points(
    path: str | Path,
    num_points: int = 1024,
    seed: int = 0,
    *,
    split: str = "test",
    index: int = 0,
    columns: str | Sequence[str] | None = None,
    drop_nan: bool = False,
    warn: bool = True,
) -> PointFile:
    """Reads a point cloud, or samples one from a mesh.

    The formats are parsed here, not by Open3D, which fills a truncated PLY with zeros, makes an empty cloud
    of garbage and lets NaN pass: to check a file as strictly as needed is to parse it. So numpy and h5py are
    all that reading needs.

    Columns and properties go by their names, of which :data:`pointsuite.io.fields.SPELLINGS` has the usual
    ones. Points far from the origin, which float32 would round, come with an offset.

    Args:
        path: a file of one of `SUFFIXES`. A shape of the suite's HDF5 files is `file.h5:train:12`, or
            `file.h5` with `split` and `index`.
        num_points: how many points to sample, uniformly by area, where the file is a mesh (off and obj, and
            ply with faces); a cloud is returned whole.
        seed: of that sampling.
        columns: what the columns of a text or npy file are, "x y z nx ny nz" (also r g b, part; _ passes one
            over), where the file does not say or says it wrong. Other formats name theirs.
        drop_nan: leave out points that are NaN or infinite, as depth cameras mark what they did not see.
        warn: log the notes, in one line.
    Returns:
        PointFile: points float32 (N, 3), normals float32 (N, 3) of unit length or None, colors float32 (N, 3)
        in 0..1 or None, part int64 (N,) or None; its `offset`, and in `notes` what was left out of the file.
    Raises:
        PointFileError: one line with the file, what was found and what was wanted: no such file, an unknown
            suffix, damaged or truncated data, counts that differ from the header's, a wrong shape or type,
            no points, NaN or infinity.
    """
    if num_points < 1:
        raise ValueError(f"num_points is {num_points}, wanted 1 or more")
    name = str(path)
    if address := re.fullmatch(r"(.+\.(?:h5|hdf5)):([^:]+):(-?\d+)", name, re.IGNORECASE):
        path, split, index = address[1], address[2], int(address[3])

    def read() -> PointFile:
        suffix = Path(path).suffix.lower()
        if suffix in _H5:
            arrays = read_h5(path, split, index)
        else:
            arrays = _read_file(path, SUFFIXES, columns)
        faces = arrays.pop("faces", ())
        cloud = checked(**arrays, drop_nan=drop_nan and not len(faces), notes=arrays.notes)
        if len(faces):
            sampled = checked(**sample_surface(cloud.points, faces, num_points, seed, cloud.colors))
            cloud = PointFile(*sampled, offset=cloud.offset, notes=cloud.notes)
        cloud.up = arrays.up
        return cloud

    cloud = _naming(name, read)
    if warn and cloud.notes:
        logger.warning("%s: %s", name, "; ".join(cloud.notes))
    return cloud


def count_clouds(path: str | Path) -> int:
    """How many clouds a file holds: 1, but of the suite's HDF5 files those of all splits.

    Raises:
        PointFileError: an HDF5 file that is damaged.
    """
    if Path(path).suffix.lower() not in _H5:
        return 1

    def count() -> int:
        with open_hdf5(path) as file:
            keys = [f"{split}/points" for split in file.names() if file.has(f"{split}/points")]
            return sum(len(file.dataset(key)) for key in keys if file.dataset(key).ndim)

    return _naming(str(path), count)


def read_mesh(path: str | Path) -> Mesh:
    """The triangles of a file of one of `MESH_SUFFIXES`; PointFileError as of :func:`read_points`."""

    def read() -> Mesh:
        arrays = _read_file(path, MESH_SUFFIXES)
        faces = arrays.get("faces", ())
        if not len(faces):
            raise PointFileError("found no faces, wanted a mesh")
        cloud = checked(arrays["points"], notes=arrays.notes)
        vertices = np.asarray(arrays["points"], np.float64) - cloud.offset
        return Mesh(vertices, faces, cloud.notes)

    return _naming(str(path), read)


def _read_file(
    path: str | Path, suffixes: Sequence[str], columns: str | Sequence[str] | None = None
) -> Arrays:
    suffix = Path(path).suffix.lower()
    data = (
        read_bytes(path, "a point cloud or mesh") if suffix in suffixes or not Path(path).is_file() else b""
    )
    if suffix not in suffixes:
        raise PointFileError(f"found the suffix {Path(path).suffix!r}, wanted one of {' '.join(suffixes)}")
    if not data:
        raise PointFileError(f"found an empty file, wanted {suffix[1:]} data")
    return _TABLES[suffix](data, columns) if suffix in _TABLES else _READERS[suffix](data)


def _naming(name: str, read: Callable):
    """What `read` returns; what it raises about the file gets the file's name."""
    try:
        return read()
    except FileError as error:
        raise PointFileError(f"{name}: {error.reason}") from None
    except PointFileError as error:
        raise PointFileError(f"{name}: {error}") from None
    except (OSError, MemoryError) as error:
        found = getattr(error, "strerror", None) or error or "too little memory"
        raise PointFileError(f"{name}: found {found}, wanted a readable file") from None
