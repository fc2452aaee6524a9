"""Image classification with any backbone of :mod:`dense.backbones`.

:class:`Classifier` names what is in images; ``ImageClassifier`` trains and tests a network.
Pipelines need mmcv (``pip install pointsuite[dense]``), whose transforms stand beside ours.
"""

from pointsuite.engine.registry import import_package

from .predictor import Classifier

__all__ = ["Classifier"]

import_package(__name__)
