"""Published backbones, one a file. Importing this registers them all."""

from .base import Backbone, ClassificationNetwork
from .biformer import BiFormer
from .davit import DaViT
from .hornet import HorNet
from .rala import RAVLT
from .shvit import SHViT
from .transnext import TransNeXt

__all__ = ["Backbone", "BiFormer", "ClassificationNetwork", "DaViT", "HorNet", "RAVLT", "SHViT", "TransNeXt"]
