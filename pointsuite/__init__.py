"""3-D point clouds: published systems, proven to the digit, nothing to compile."""

from importlib.metadata import version

from .engine.cpu import prepare_process

prepare_process()  # before anything imports PyTorch

from .engine.zoo import create_model, list_models  # noqa: E402

__version__ = version("pointsuite")

__all__ = ["Classifier", "__version__", "create_model", "list_models"]


def __getattr__(name: str):
    if name == "Classifier":  # imported on first use: it needs every network and reader
        from .inference import Classifier

        return Classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
