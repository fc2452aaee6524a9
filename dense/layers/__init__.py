"""Modules that two or more systems share."""

from .attention import ClassAttention, SelfAttention, record_attention
from .channels_last import on_channels_last
from .checkpointing import run_block
from .conditional_position import ConditionalPosition
from .conv_norm import ConvNorm, ConvNormReLU, fold_norm
from .drop_path import DropPath, drop_path_rates
from .heads import ClassificationHead, PooledLinear, TokenHead, make_classifier
from .init import init_he, init_normal
from .injective_attention import InjectiveAttention
from .layer_norm import LayerNorm, LayerNorm2d
from .layer_scale import LayerScale, add_scaled, make_scale
from .linear import Linear
from .local_patch_interaction import LocalPatchInteraction
from .mlp import MLP
from .neighborhood_attention import NeighborhoodAttention1d, NeighborhoodAttention2d, NeighborhoodAttention3d
from .patch_embed import ConvStem, PatchEmbed
from .patch_merging import ConvLayerNorm, PatchMerging, SwinPatchMerging
from .position_relation import PositionRelation
from .positions import resize_positions
from .squeeze_excitation import SqueezeExcitation, channel_gates
from .token_pooling import TokenAwarePooling
from .weighted_conv import (
    WeightedConv1d,
    WeightedConv2d,
    WeightedConv3d,
    effective_weight,
    fold_density,
    weight_convolutions,
)
from .window_attention import PositionBias, ShiftedWindowAttention, WindowAttention, square_table

__all__ = [
    "MLP",
    "ClassAttention",
    "ClassificationHead",
    "ConditionalPosition",
    "ConvLayerNorm",
    "ConvNorm",
    "ConvNormReLU",
    "ConvStem",
    "DropPath",
    "InjectiveAttention",
    "LayerNorm",
    "LayerNorm2d",
    "LayerScale",
    "Linear",
    "LocalPatchInteraction",
    "NeighborhoodAttention1d",
    "NeighborhoodAttention2d",
    "NeighborhoodAttention3d",
    "PatchEmbed",
    "PatchMerging",
    "PooledLinear",
    "PositionBias",
    "PositionRelation",
    "SelfAttention",
    "ShiftedWindowAttention",
    "SqueezeExcitation",
    "SwinPatchMerging",
    "TokenAwarePooling",
    "TokenHead",
    "WeightedConv1d",
    "WeightedConv2d",
    "WeightedConv3d",
    "WindowAttention",
    "add_scaled",
    "channel_gates",
    "drop_path_rates",
    "effective_weight",
    "fold_density",
    "fold_norm",
    "init_he",
    "init_normal",
    "make_classifier",
    "make_scale",
    "on_channels_last",
    "record_attention",
    "resize_positions",
    "run_block",
    "square_table",
    "weight_convolutions",
]
