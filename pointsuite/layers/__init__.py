"""Modules of point networks."""

from .attention import NeighbourAttention, PointAttention
from .surface_conv import SurfaceConv, SurfaceEmbedding

__all__ = ["NeighbourAttention", "PointAttention", "SurfaceConv", "SurfaceEmbedding"]
