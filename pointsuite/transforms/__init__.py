from .normalize import NormalizeUnitSphere
from .pack import PackPoints
from .perturb import RandomJitter, RandomScale, RandomShift
from .rotate import RandomRotate, RotateBy, random_rotation
from .select import RandomPointDropout, SamplePoints, ShufflePoints

__all__ = [
    "NormalizeUnitSphere",
    "PackPoints",
    "RandomJitter",
    "RandomPointDropout",
    "RandomRotate",
    "RandomScale",
    "RandomShift",
    "RotateBy",
    "SamplePoints",
    "ShufflePoints",
    "random_rotation",
]
