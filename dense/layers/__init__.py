"""Modules that two or more systems share."""

from .drop_path import DropPath
from .layer_norm import LayerNorm2d
from .mlp import MLP
from .pooled_linear import PooledLinear

__all__ = ["MLP", "DropPath", "LayerNorm2d", "PooledLinear"]
