"""Object detection on MMDetection: detectors, and parts of them, that it lacks.

Importing this registers them all; configs do so by ``custom_imports = dict(imports=["dense.detection"])``.
"""

from pointsuite.engine.registry import import_package

import_package(__name__)


def __getattr__(name: str):
    """:class:`~.predictor.DetInferencer`, which needs mmdet: the package can be imported without."""
    if name != "DetInferencer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .predictor import DetInferencer

    return DetInferencer
