"""RelationNet++: dense detectors whose features see key points of the objects.

Chi, Wei, Hu, "RelationNet++: Bridging Visual Representations for Object Detection via Transformer Decoder",
NeurIPS 2020 (arXiv 2010.15831). Published code: microsoft/RelationNet2, MIT; this is an independent
implementation.
"""

from pointsuite.engine.registry import import_package

import_package(__name__)
