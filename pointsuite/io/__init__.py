"""Point-cloud and mesh files, read strictly: a file is read whole and right, or refused with one line."""

from pointsuite.io.mesh import sample_surface
from pointsuite.io.point_file import PointFile, PointFileError
from pointsuite.io.read import MESH_SUFFIXES, SUFFIXES, Mesh, count_clouds, read_mesh, read_points

__all__ = [
    "MESH_SUFFIXES",
    "SUFFIXES",
    "Mesh",
    "PointFile",
    "PointFileError",
    "count_clouds",
    "read_mesh",
    "read_points",
    "sample_surface",
]
