"""Modules of point networks."""

from .attention import NeighbourAttention, PointAttention
from .mlp import ChannelNorm, check_in_channels, check_inputs, classification_head, mlp
from .surface_conv import SurfaceConv, SurfaceEmbedding
from .surface_propagation import SurfacePropagation

__all__ = [
    "ChannelNorm",
    "NeighbourAttention",
    "PointAttention",
    "SurfaceConv",
    "SurfaceEmbedding",
    "SurfacePropagation",
    "check_in_channels",
    "check_inputs",
    "classification_head",
    "mlp",
]
