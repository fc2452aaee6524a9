"""Operators on batches of point clouds: functions on tensors, no parameters."""

from . import graph
from .add_activated import add_activated
from .farthest_point_sample import farthest_point_sample
from .gather_points import gather_points
from .knn import ball_query, knn
from .linear_relu import linear_relu
from .normals import estimate_normals, weighted_normal
from .offset_attention import offset_attention
from .pool_neighbours import pool_neighbours
from .projected_attention import projected_attention
from .surface_features import NUM_FEATURES, surface_features
from .three_interpolate import inverse_distance_weights, three_interpolate

__all__ = [
    "NUM_FEATURES",
    "add_activated",
    "ball_query",
    "estimate_normals",
    "farthest_point_sample",
    "gather_points",
    "graph",
    "inverse_distance_weights",
    "knn",
    "linear_relu",
    "offset_attention",
    "pool_neighbours",
    "projected_attention",
    "surface_features",
    "three_interpolate",
    "weighted_normal",
]
