"""Networks that adapt trained ones: fewer tokens, fewer keys."""

from pointsuite.engine.registry import import_package

import_package(__name__)
