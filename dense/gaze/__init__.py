"""Gaze: networks that predict where people look, and in which order.

:class:`ScanpathPredictor` looks at pictures; :class:`ScanpathModel` trains and tests any network of the task.
"""

from pointsuite.engine.registry import import_package

from .predictor import Scanpath, ScanpathPredictor

__all__ = ["Scanpath", "ScanpathPredictor"]

import_package(__name__)
