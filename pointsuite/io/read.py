"""`read_points`: any supported file, by its suffix."""

import re
from pathlib import Path

from pointsuite.io.arrays import read_h5, read_npy, read_npz, read_text
from pointsuite.io.mesh import read_obj, read_off, sample_surface
from pointsuite.io.pcd import read_pcd
from pointsuite.io.ply import read_ply
from pointsuite.io.point_file import PointFile, PointFileError, checked

_H5 = (".h5", ".hdf5")
_READERS = {
    ".npz": read_npz,
    ".npy": read_npy,
    ".ply": read_ply,
    ".pcd": read_pcd,
    ".off": read_off,
    ".obj": read_obj,
    ".txt": read_text,
    ".xyz": read_text,
    ".csv": read_text,
}
SUFFIXES = (*_H5, *_READERS)


def read_points(
    path: str | Path, num_points: int = 1024, seed: int = 0, *, split: str = "test", index: int = 0
) -> PointFile:
    """Reads a point cloud, or samples one from a mesh.

    The formats are parsed here, not by Open3D, which fills a truncated PLY with zeros, makes an empty cloud
    of garbage and lets NaN pass: to check a file as strictly as needed is to parse it. So numpy and h5py are
    all that reading needs.

    Args:
        path: a file of one of `SUFFIXES`. A shape of the suite's HDF5 files is `file.h5:train:12`, or
            `file.h5` with `split` and `index`.
        num_points: how many points to sample, uniformly by area, where the file is a mesh (off and obj, and
            ply with faces); a cloud is returned whole.
        seed: of that sampling.
    Returns:
        PointFile: points float32 (N, 3), normals float32 (N, 3) of unit length or None, colors float32 (N, 3)
        in 0..1 or None, part int64 (N,) or None.
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
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        if not path.exists():
            raise PointFileError("found no such file, wanted a point cloud or mesh")
        if not path.is_file():
            raise PointFileError("found no regular file, wanted a point cloud or mesh")
        if suffix not in SUFFIXES:
            raise PointFileError(f"found the suffix {path.suffix!r}, wanted one of {' '.join(SUFFIXES)}")
        if suffix in _H5:
            return checked(**read_h5(path, split, index))
        data = path.read_bytes()
        if not data:
            raise PointFileError(f"found an empty file, wanted {suffix[1:]} data")
        arrays = _READERS[suffix](data)
        faces = arrays.pop("faces", ())
        cloud = checked(**arrays)
        if len(faces):
            cloud = checked(**sample_surface(cloud.points, faces, num_points, seed, cloud.colors))
        return cloud
    except PointFileError as error:
        raise PointFileError(f"{name}: {error}") from None
    except OSError as error:
        raise PointFileError(f"{name}: found {error.strerror or error}, wanted a readable file") from None
