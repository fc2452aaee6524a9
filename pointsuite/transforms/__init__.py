from .corrupt import CORRUPTIONS, SEVERITIES, Corruption, RepeatPoints
from .normalize import NormalizeUnitSphere
from .normals import EstimateNormals
from .pack import PackPoints
from .perturb import RandomJitter, RandomScale, RandomShift
from .rotate import RandomRotate, RotateBy, random_rotation
from .select import RandomPointDropout, SamplePoints, ShufflePoints

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "Corruption",
    "EstimateNormals",
    "NormalizeUnitSphere",
    "PackPoints",
    "RandomJitter",
    "RandomPointDropout",
    "RandomRotate",
    "RandomScale",
    "RandomShift",
    "RepeatPoints",
    "RotateBy",
    "SamplePoints",
    "ShufflePoints",
    "random_rotation",
]
