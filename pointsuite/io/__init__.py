"""Point-cloud and mesh files, read strictly: a file is read whole and right, or refused with one line."""

from pointsuite.io.mesh import sample_surface
from pointsuite.io.point_file import PointFile, PointFileError
from pointsuite.io.read import SUFFIXES, read_points

__all__ = ["SUFFIXES", "PointFile", "PointFileError", "read_points", "sample_surface"]
