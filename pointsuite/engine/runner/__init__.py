"""A run: our Runner, loops, hooks and optimiser wrappers. Importing this registers and exports them all."""

from ..registry import import_package
from .loops import EpochBasedTrainLoop

__all__ = ["EpochBasedTrainLoop"]

import_package(__name__)
