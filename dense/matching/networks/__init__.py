"""Published networks of dense matching, one a file, and what they must beat (``baselines``)."""

from pointsuite.engine.registry import import_package

import_package(__name__)
