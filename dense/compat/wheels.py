"""Let mmcv, mmdet and mmseg run as they are where only wheels are installed: no compiler, no torchvision.

``import dense`` calls :func:`prepare`, which costs next to nothing: what it sets up works when mmcv is
imported, and only where something is missing.
"""

import logging
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from pointsuite.engine.mending import mend_on_import

EXTENSION = "mmcv._ext"
MENDS = "dense.base.libraries"  # by whose MENDS some of the libraries' modules get ours in place of theirs
MENDED = ("mmcv", "mmdet", "mmseg")


def prepare() -> None:
    """Offer :mod:`dense.compat.mmcv_ext` to mmcv; warn where mmcv went without it, or cannot load OpenCV."""
    if not any(isinstance(finder, PortableExtension) for finder in sys.meta_path):
        sys.meta_path.append(PortableExtension())  # the last: a compiled extension is found before
    mend_on_import(MENDED, find_mends)
    if "mmcv.cnn" in sys.modules and "mmcv.ops" not in sys.modules:
        warnings.warn(
            "mmcv was imported before dense and found no operators, so models go without them; "
            "import dense first, before mmcv, mmdet and mmseg",
            stacklevel=3,
        )
    # said when mmdet is imported; its usual CocoMetric computes all metrics
    warnings.filterwarnings("ignore", "faster_coco_eval is not installed, metrics will not be computed")
    _keep_quiet()
    _check_opencv()


def _keep_quiet() -> None:
    """Without a logger MMEngine prints even what is for debugging: that mmdet and mmseg find no OneDL."""
    from mmengine import logging as library

    inner = library.print_log
    if inner.__module__ == __name__:
        return

    def print_log(msg, logger=None, level=logging.INFO) -> None:
        if logger is not None or level > logging.DEBUG:
            inner(msg, logger, level)

    library.print_log = print_log


class PortableExtension(MetaPathFinder, Loader):
    """Finds ``mmcv._ext``, and nothing else, in :mod:`dense.compat.mmcv_ext`."""

    def find_spec(self, name, path, target=None) -> ModuleSpec | None:
        return ModuleSpec(name, self, origin="dense.compat.mmcv_ext") if name == EXTENSION else None

    def exec_module(self, module: ModuleType) -> None:
        from .mmcv_ext import find_operator

        def find(name: str):
            if name.startswith("__"):  # Python asks for these
                raise AttributeError(f"module {EXTENSION!r} has no attribute {name!r}")
            return find_operator(name)

        module.__getattr__ = find
        if find_spec("torchvision") is None:
            _serve_torchvision_weights()


def find_mends() -> dict[str, Callable[[ModuleType], None]]:
    """By the names of modules, what is done to each when it has been imported."""
    return import_module(MENDS).MENDS


def _serve_torchvision_weights() -> None:
    """Let ``torchvision://resnet50`` in configs work without torchvision: MMEngine ships the addresses."""
    import mmengine
    from mmengine.runner import CheckpointLoader

    def load_from_torchvision(filename: str, map_location=None):
        name = filename.split("://", 1)[1]
        urls = mmengine.load(Path(mmengine.__file__).parent / "hub" / "torchvision_0.12.json")
        if name not in urls:
            raise KeyError(f"{filename}: without torchvision installed there are {sorted(urls)}")
        return CheckpointLoader.load_checkpoint(urls[name], map_location)

    CheckpointLoader.register_scheme(("torchvision://", "modelzoo://"), load_from_torchvision, force=True)


def _check_opencv() -> None:
    """mmcv asks for opencv-python, which needs a desktop; the headless build shares its folder."""
    if "cv2" in sys.modules:
        return
    try:
        distribution("opencv-python")
    except PackageNotFoundError:
        return
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        warnings.warn(
            f"OpenCV cannot be imported ({error}), and so mmcv, mmdet and mmseg cannot either. On a machine "
            "without a desktop put the headless build over it: "
            "pip install --force-reinstall --no-deps opencv-python-headless",
            stacklevel=4,
        )
