"""Modules of point networks."""

from .attention import NeighbourAttention, PointAttention
from .levels import global_frame, sample_levels
from .mlp import ChannelNorm, check_in_channels, check_inputs, classification_head, mlp
from .risurconv import RISurConv
from .surface_backbone import SurfaceBackbone, SurfaceGeometry
from .surface_conv import SurfaceConv, SurfaceEmbedding
from .surface_propagation import SurfacePropagation

__all__ = [
    "ChannelNorm",
    "NeighbourAttention",
    "PointAttention",
    "RISurConv",
    "SurfaceBackbone",
    "SurfaceConv",
    "SurfaceEmbedding",
    "SurfaceGeometry",
    "SurfacePropagation",
    "check_in_channels",
    "check_inputs",
    "classification_head",
    "global_frame",
    "mlp",
    "sample_levels",
]
