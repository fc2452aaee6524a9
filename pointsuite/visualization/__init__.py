"""Pictures of point clouds and of what a classifier says about them, written whole or not at all."""

from pointsuite.visualization.cloud import draw_cloud, show_cloud
from pointsuite.visualization.confusion import draw_confusion_matrix
from pointsuite.visualization.corruptions import draw_corruptions
from pointsuite.visualization.curves import draw_beside_chance, draw_logs, draw_schedule, draw_seeds
from pointsuite.visualization.grid import draw_grid
from pointsuite.visualization.page import Exhibit, is_page, write_page
from pointsuite.visualization.parts import draw_parts
from pointsuite.visualization.predictions import draw_predictions, read_predictions
from pointsuite.visualization.samples import build_drawer, draw_tiles
from pointsuite.visualization.scene import COLORINGS, PALETTE

__all__ = [
    "COLORINGS",
    "Exhibit",
    "PALETTE",
    "build_drawer",
    "draw_beside_chance",
    "draw_cloud",
    "draw_confusion_matrix",
    "draw_corruptions",
    "draw_grid",
    "draw_logs",
    "draw_parts",
    "draw_predictions",
    "draw_schedule",
    "draw_seeds",
    "draw_tiles",
    "is_page",
    "read_predictions",
    "show_cloud",
    "write_page",
]
