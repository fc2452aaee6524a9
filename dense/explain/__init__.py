"""Where a trained network looks, and what of an image its answer rests on."""

from pointsuite.engine.registry import import_package

from .explain import METHODS, explain, register_method

import_package(__name__)
__all__ = ["METHODS", "explain", "register_method"]
