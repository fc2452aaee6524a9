"""3-D point clouds: published systems, proven to the digit, nothing to compile."""

from importlib.metadata import version

from .compat import mim, pyg
from .engine.cpu import prepare_process

prepare_process()  # before anything imports PyTorch
pyg.prepare()
mim.prepare()

__version__ = version("pointsuite")

__all__ = ["Classifier", "PartSegmenter", "__version__", "create_model", "list_models", "load_official"]


def __getattr__(name: str):
    if name in ("create_model", "list_models", "load_official"):  # on first use: they bring in PyTorch
        from .engine import zoo

        return getattr(zoo, name)
    if name in ("Classifier", "PartSegmenter"):  # these, every network and reader
        from . import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
