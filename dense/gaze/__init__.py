"""Gaze: networks that predict where people look, and in which order."""

from pointsuite.engine.registry import import_package

import_package(__name__)
