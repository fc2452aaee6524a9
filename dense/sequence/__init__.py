"""Language models of text, pixels and pictures: networks whose cost grows almost linearly with length."""

from pointsuite.engine.registry import import_package

import_package(__name__)
