"""Data sets of point clouds, and their file. Importing this registers and exports them all."""

from pointsuite.engine.registry import import_package

from .data_sample import PointDataSample
from .layout import Clouds, DatasetError, FileInfo, read_clouds, read_info, write_clouds

__all__ = [
    "Clouds",
    "DatasetError",
    "FileInfo",
    "PointDataSample",
    "read_clouds",
    "read_info",
    "write_clouds",
]

import_package(__name__)
