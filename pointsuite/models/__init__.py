"""Networks for point clouds."""

from .base import PointCloudModel, StackClouds
from .classifier import PointCloudClassifier
from .dgcnn import DGCNNClassifier
from .part_segmenter import PointCloudPartSegmenter
from .pointnet import PointNetClassifier
from .pointnet2 import PointNet2Classifier
from .riconv2 import RIConv2Classifier
from .risurconv import RISurConvClassifier
from .risurconv_partseg import RISurConvPartSegmenter

__all__ = [
    "DGCNNClassifier",
    "PointCloudClassifier",
    "PointCloudModel",
    "PointCloudPartSegmenter",
    "PointNet2Classifier",
    "PointNetClassifier",
    "RIConv2Classifier",
    "RISurConvClassifier",
    "RISurConvPartSegmenter",
    "StackClouds",
]
