"""Semantic segmentation on MMSegmentation: data sets, metrics and networks that it lacks.

Importing this registers them all; configs do so by ``custom_imports = dict(imports=["dense.segmentation"])``.
"""

from pointsuite.engine.registry import import_package

import_package(__name__)


def __getattr__(name: str):
    """:class:`~.predictor.Segmenter`, which needs mmseg: the package can be imported without."""
    if name != "Segmenter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .predictor import Segmenter

    return Segmenter
