"""Language models and what feeds pictures to them, a published system a file."""

from pointsuite.engine.registry import import_package

import_package(__name__)
