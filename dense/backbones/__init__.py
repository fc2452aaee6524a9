"""Published backbones, one family a file. Importing this registers and exports them all."""

from pointsuite.engine.registry import import_package

from ..base import Backbone, ClassificationNetwork, TokenBackbone

__all__ = ["Backbone", "ClassificationNetwork", "TokenBackbone"]

import_package(__name__)
