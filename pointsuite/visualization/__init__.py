"""Pictures of point clouds and of what a classifier says about them, written whole or not at all."""

from pointsuite.visualization.cloud import draw_cloud, show_cloud
from pointsuite.visualization.confusion import draw_confusion_matrix
from pointsuite.visualization.corruptions import draw_corruptions
from pointsuite.visualization.grid import draw_grid
from pointsuite.visualization.parts import draw_parts
from pointsuite.visualization.predictions import draw_predictions, read_predictions
from pointsuite.visualization.scene import COLORINGS, PALETTE

__all__ = [
    "COLORINGS",
    "PALETTE",
    "draw_cloud",
    "draw_confusion_matrix",
    "draw_corruptions",
    "draw_grid",
    "draw_parts",
    "draw_predictions",
    "read_predictions",
    "show_cloud",
]
