"""Modules that two or more systems share."""

from .conditional_position import ConditionalPosition
from .conv_norm import ConvNorm, fold_norm
from .drop_path import DropPath
from .init import init_normal
from .layer_norm import LayerNorm2d
from .linear import Linear
from .mlp import MLP
from .pooled_linear import PooledLinear
from .position_relation import PositionRelation
from .weighted_conv import (
    WeightedConv1d,
    WeightedConv2d,
    WeightedConv3d,
    effective_weight,
    fold_density,
    weight_convolutions,
)

__all__ = [
    "MLP",
    "ConditionalPosition",
    "ConvNorm",
    "DropPath",
    "LayerNorm2d",
    "Linear",
    "PooledLinear",
    "PositionRelation",
    "WeightedConv1d",
    "WeightedConv2d",
    "WeightedConv3d",
    "effective_weight",
    "fold_density",
    "fold_norm",
    "init_normal",
    "weight_convolutions",
]
