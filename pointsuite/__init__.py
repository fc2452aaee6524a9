"""3-D point clouds: published systems, proven to the digit, nothing to compile."""

from importlib.metadata import version

from .engine.allocator import keep_freed_memory
from .engine.zoo import create_model, list_models

keep_freed_memory()

__version__ = version("pointsuite")

__all__ = ["__version__", "create_model", "list_models"]
