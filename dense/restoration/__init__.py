"""Image restoration: super-resolution, denoising, removal of compression artefacts.

:class:`Restorer` restores image files; :class:`ImageRestorer` trains and tests any network of the task.
"""

from pointsuite.engine.registry import import_package

from .predictor import Restorer

__all__ = ["Restorer"]

import_package(__name__)
