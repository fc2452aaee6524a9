"""Published segmentors, one a file. Importing this registers and exports them all."""

from pointsuite.engine.registry import import_package

import_package(__name__)
