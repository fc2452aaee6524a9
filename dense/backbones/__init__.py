"""Published backbones, one a file. Importing this registers them all."""

from .base import Backbone, ClassificationNetwork
from .biformer import BiFormer
from .cifar import ResNetCifar, VGGCifar
from .davit import DaViT
from .hornet import HorNet
from .rala import RAVLT
from .shvit import SHViT
from .transnext import TransNeXt

__all__ = [
    "RAVLT",
    "Backbone",
    "BiFormer",
    "ClassificationNetwork",
    "DaViT",
    "HorNet",
    "ResNetCifar",
    "SHViT",
    "TransNeXt",
    "VGGCifar",
]
