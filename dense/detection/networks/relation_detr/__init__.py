"""Relation-DETR: DINO whose self-attention knows how the boxes of the queries lie to each other.

Hou, Liu, Zhang, Wei, Chen, Lan, "Relation DETR: Exploring Explicit Position Relation Prior for Object
Detection", ECCV 2024 (arXiv 2407.11699). Published code: xiuqhou/Relation-DETR, Apache-2.0.
"""

from pointsuite.engine.registry import import_package

import_package(__name__)
