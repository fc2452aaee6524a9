"""Published backbones, one a file. Importing this registers them all."""

from .base import Backbone, ClassificationNetwork

__all__ = ["Backbone", "ClassificationNetwork"]
