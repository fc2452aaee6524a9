"""Networks for point clouds."""

from .classifier import PointCloudClassifier, StackClouds
from .risurconv import RISurConvClassifier

__all__ = ["PointCloudClassifier", "RISurConvClassifier", "StackClouds"]
