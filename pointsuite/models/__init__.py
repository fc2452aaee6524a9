"""Networks of point clouds, a published system a file. Importing this registers and exports them all."""

from pointsuite.engine.registry import import_package

from .base import CloudNetwork, PointCloudModel

__all__ = ["CloudNetwork", "PointCloudModel"]

import_package(__name__)
