"""Semantic segmentation on MMSegmentation: data sets, metrics and networks that it lacks.

Importing this registers them all; configs do so by ``custom_imports = dict(imports=["dense.segmentation"])``.
"""

from .camvid import CamVidDataset
from .dice import DiceMetric
from .self_guided_attention import SelfGuidedAttention, SelfGuidedHead
from .slices import RoundLabels, SliceDataset

__all__ = [
    "CamVidDataset",
    "DiceMetric",
    "RoundLabels",
    "SelfGuidedAttention",
    "SelfGuidedHead",
    "SliceDataset",
]
