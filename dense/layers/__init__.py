"""Modules that two or more systems share."""

from .attention import ClassAttention, SelfAttention, record_attention
from .cbam import CBAM
from .channels_last import on_channels_last
from .checkpointing import run_block
from .conditional_position import ConditionalPosition
from .conv_glu import ConvGLU
from .conv_norm import ConvNorm, ConvNormReLU, MergedConv, fold_norm
from .coordinate_attention import BalancedAttention, CoordinateAttention
from .drop_block import DropBlock
from .drop_path import DropPath, drop_path_rates
from .ela import ELA
from .heads import (
    ClassificationHead,
    FinalConvHead,
    PooledLinear,
    PooledNormLinear,
    TokenHead,
    make_classifier,
)
from .init import init_he, init_normal
from .injective_attention import InjectiveAttention
from .kernelized_attention import KernelizedAttention, kernelized_stack, redraw_features
from .layer_norm import LayerNorm, LayerNorm2d, RMSNorm
from .layer_scale import LayerScale, add_scaled, make_scale
from .linear import Linear
from .local_patch_interaction import LocalPatchInteraction
from .mlp import MLP
from .neighborhood_attention import NeighborhoodAttention1d, NeighborhoodAttention2d, NeighborhoodAttention3d
from .norm_conv import NormConv, fold_norm_before
from .patch_embed import ConvStem, PatchEmbed
from .patch_merging import ConvLayerNorm, PatchMerging, SwinPatchMerging
from .plugins import PluggedBlock, plugins_of_stage
from .position_relation import PositionRelation
from .positions import resize_positions
from .reparameterized import (
    ReparameterizedConv,
    dilate_kernel,
    identity_kernel,
    mergeable_layers,
    pad_kernel,
    switch_to_deploy,
)
from .response_norm import GlobalResponseNorm
from .squeeze_excitation import SE, SqueezeExcitation, channel_gates
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
    "CBAM",
    "ELA",
    "MLP",
    "SE",
    "BalancedAttention",
    "ClassAttention",
    "ClassificationHead",
    "ConditionalPosition",
    "ConvGLU",
    "ConvLayerNorm",
    "ConvNorm",
    "ConvNormReLU",
    "ConvStem",
    "CoordinateAttention",
    "DropBlock",
    "DropPath",
    "FinalConvHead",
    "GlobalResponseNorm",
    "InjectiveAttention",
    "KernelizedAttention",
    "LayerNorm",
    "LayerNorm2d",
    "LayerScale",
    "Linear",
    "LocalPatchInteraction",
    "MergedConv",
    "NeighborhoodAttention1d",
    "NeighborhoodAttention2d",
    "NeighborhoodAttention3d",
    "NormConv",
    "PatchEmbed",
    "PatchMerging",
    "PluggedBlock",
    "PooledLinear",
    "PooledNormLinear",
    "PositionBias",
    "PositionRelation",
    "RMSNorm",
    "ReparameterizedConv",
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
    "dilate_kernel",
    "drop_path_rates",
    "effective_weight",
    "fold_density",
    "fold_norm",
    "fold_norm_before",
    "identity_kernel",
    "init_he",
    "init_normal",
    "kernelized_stack",
    "make_classifier",
    "make_scale",
    "mergeable_layers",
    "on_channels_last",
    "pad_kernel",
    "plugins_of_stage",
    "record_attention",
    "redraw_features",
    "resize_positions",
    "run_block",
    "square_table",
    "switch_to_deploy",
    "weight_convolutions",
]
