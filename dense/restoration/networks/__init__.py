"""Published networks that restore images, one family a file: (B, C, h, w) in 0..1 to (B, C, s * h, s * w)."""

from pointsuite.engine.registry import import_package

import_package(__name__)
