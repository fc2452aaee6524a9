"""Where a trained network looks, and what of an image its answer rests on."""

from pointsuite.engine.registry import import_package

import_package(__name__)
