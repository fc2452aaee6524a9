"""Relation-DETR: DINO whose self-attention knows how the boxes of the queries lie to each other.

Hou, Liu, Zhang, Wei, Chen, Lan, "Relation DETR: Exploring Explicit Position Relation Prior for Object
Detection", ECCV 2024 (arXiv 2407.11699). Published code: xiuqhou/Relation-DETR, Apache-2.0.
"""

from .detector import RelationDETR
from .head import DetachedVarifocalLoss, RelationDETRHead
from .plugins import RelationDABDETR, RelationDeformableDETR, RelationDINO

__all__ = [
    "DetachedVarifocalLoss",
    "RelationDABDETR",
    "RelationDETR",
    "RelationDETRHead",
    "RelationDINO",
    "RelationDeformableDETR",
]
