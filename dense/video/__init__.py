"""Video anomaly detection: networks that predict the middle frames of a clip, and scores of their errors.

:class:`AnomalyScorer` scores videos; :class:`FramePredictor` trains and tests any network of the task.
"""

from pointsuite.engine.registry import import_package

from .predictor import AnomalyScorer

__all__ = ["AnomalyScorer"]

import_package(__name__)
