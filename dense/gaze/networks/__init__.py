"""Published networks that predict scanpaths, one a file."""

from pointsuite.engine.registry import import_package

import_package(__name__)
