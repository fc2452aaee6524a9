"""Transforms of samples. Importing this registers and exports them all."""

from pointsuite.engine.registry import import_package

from .corrupt import CORRUPTIONS
from .rotate import random_rotation

__all__ = ["CORRUPTIONS", "random_rotation"]

import_package(__name__)
