"""What adapts trained networks: fewer tokens, fewer keys, prompts, registers."""

from pointsuite.engine.registry import import_package

import_package(__name__)
