"""Language models of text, pixels and pictures: networks whose cost grows almost linearly with length."""

from pointsuite.engine.registry import import_package

from .answering import Answerer
from .predictor import Generator

__all__ = ["Answerer", "Generator"]

import_package(__name__)
