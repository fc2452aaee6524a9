"""Object detection on MMDetection: detectors, and parts of them, that it lacks.

Importing this registers them all; configs do so by ``custom_imports = dict(imports=["dense.detection"])``.
"""

from .bvr_heads import BVRATSSHead, BVRFCOSHead, BVRRetinaHead, BVRRoIHead
from .gnconv_fpn import GnConvFPN
from .optim import NoDecayConstructor
from .relation_detr import (
    DetachedVarifocalLoss,
    RelationDABDETR,
    RelationDeformableDETR,
    RelationDETR,
    RelationDETRHead,
    RelationDINO,
)

__all__ = [
    "BVRATSSHead",
    "BVRFCOSHead",
    "BVRRetinaHead",
    "BVRRoIHead",
    "DetachedVarifocalLoss",
    "GnConvFPN",
    "NoDecayConstructor",
    "RelationDABDETR",
    "RelationDETR",
    "RelationDETRHead",
    "RelationDINO",
    "RelationDeformableDETR",
]
