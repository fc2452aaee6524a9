"""A cloud as it is seen: one camera, one light, one set of colours for every way of drawing."""

from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from scipy.spatial import cKDTree

# Okabe and Ito (2008): told apart by readers with any of the common colour-vision deficiencies.
PALETTE = (
    np.array(
        [
            [0, 114, 178],
            [230, 159, 0],
            [0, 158, 115],
            [204, 121, 167],
            [86, 180, 233],
            [213, 94, 0],
            [240, 228, 66],
            [110, 110, 110],
        ]
    )
    / 255
)
RIGHT, WRONG = PALETTE[0], PALETTE[5]
COLORINGS = ("normals", "height", "part")

_AZIMUTH, _ELEVATION = np.radians(-60), np.radians(25)  # of the viewer; z is up
_LIGHT = np.array([-0.45, 0.6, 0.66])  # in the viewer's frame: over the left shoulder
MARGIN = 1.12  # half the height of a picture, where the points reach to 1 and their discs a little further


class Scene(NamedTuple):
    """Points in the viewer's frame: x right, y up, z towards the viewer, y of the picture within -1..1."""

    points: np.ndarray  # float64 (N, 3), sorted from far to near
    normals: np.ndarray  # float64 (N, 3), unit length, of the discs that stand for the points; z > 0
    colors: np.ndarray  # float64 (N, 3) in 0..1, shaded
    reach: np.ndarray  # float64 (N,): how far from each point discs must reach to leave few holes


def upright(vectors: np.ndarray | None, up: str = "z") -> np.ndarray | None:
    """Points or normals (N, 3), turned so that the axis `up`, "x", "y" or "z", becomes z."""
    if up not in ("x", "y", "z"):
        raise ValueError(f"up is {up!r}, wanted x, y or z")
    return None if vectors is None else np.roll(vectors, 2 - "xyz".index(up), axis=1)


def point_colors(colors, points, normals=None, part=None) -> np.ndarray:
    """Colours (N, 3) in 0..1: "normals" (direction), "height" (z), "part" (PALETTE), or an array as it is.

    None means "normals" where there are normals and "height" elsewhere.
    """
    if colors is None:
        colors = "height" if normals is None else "normals"
    if not isinstance(colors, str):
        colors = np.asarray(colors, np.float64)
        if colors.shape != points.shape or not ((colors >= 0) & (colors <= 1)).all():
            raise ValueError(f"colors are {colors.shape}, wanted {points.shape} of numbers in 0..1")
        return colors
    if colors == "normals" and normals is not None:
        return 0.5 + 0.5 * np.asarray(normals, np.float64)
    if colors == "part" and part is not None:
        return PALETTE[np.asarray(part) % len(PALETTE)]
    if colors == "height":
        height = np.asarray(points[:, 2], np.float64)
        height = (height - height.min()) / max(np.ptp(height), np.finfo(float).tiny)
        return colormaps["viridis"](height)[:, :3]
    if colors in COLORINGS:
        raise ValueError(f"colors by {colors}, but the cloud has no {colors}")
    raise ValueError(f"colors are {colors!r}, wanted one of {', '.join(COLORINGS)} or an array")


def make_scene(points, colors, normals=None, aspect: float = 1.0) -> Scene:
    """Turns a cloud to the viewer, fits it into a picture of width / height `aspect` and shades it (Lambert).

    points (N, 3), colors (N, 3) in 0..1, normals (N, 3) or None: then they are estimated, for the shading.
    """
    points = np.asarray(points, np.float64)
    view = _view()
    seen = points @ view.T
    low, high = seen.min(axis=0), seen.max(axis=0)
    half = (high - low) / 2
    least = max(1e-9 * np.abs(seen).max(), np.finfo(float).tiny)  # of a single point, or points all alike
    seen = (seen - (low + high) / 2) / max(half[1], half[0] / aspect, least)

    tree = cKDTree(seen)
    normals = _estimate_normals(seen, tree) if normals is None else np.asarray(normals, np.float64) @ view.T
    normals = normals * np.where(normals[:, 2:] < 0, -1, 1)  # every surface that is seen faces the viewer
    light = _LIGHT / np.linalg.norm(_LIGHT)
    near = (seen[:, 2] - seen[:, 2].min()) / max(np.ptp(seen[:, 2]), 1e-12)
    shade = (0.5 + 0.6 * np.maximum(normals @ light, 0)) * (0.8 + 0.2 * near)
    shaded = np.clip(np.asarray(colors, np.float64) * shade[:, None], 0, 1)
    normals = normals + [0, 0, 0.2]  # a disc seen from its edge, or one without a normal, stays visible
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)

    order = np.argsort(seen[:, 2], kind="stable")
    return Scene(seen[order], normals[order], shaded[order], _reach(seen, tree)[order])


def _view() -> np.ndarray:
    """Rows: right, up and towards the viewer."""
    toward = np.array(
        [np.cos(_ELEVATION) * np.cos(_AZIMUTH), np.cos(_ELEVATION) * np.sin(_AZIMUTH), np.sin(_ELEVATION)]
    )
    right = np.cross([0, 0, 1], toward) / np.cos(_ELEVATION)
    return np.stack([right, np.cross(toward, right), toward])


def _estimate_normals(points: np.ndarray, tree: cKDTree) -> np.ndarray:
    """The direction in which each point's 16 nearest neighbours spread least; the sign is arbitrary."""
    _, idx = tree.query(points, k=min(16, len(points)))
    near = points[idx.reshape(len(points), -1)]  # (N, k, 3)
    near = near - near.mean(axis=1, keepdims=True)
    return np.linalg.eigh(np.einsum("nki,nkj->nij", near, near))[1][:, :, 0]


def _reach(points: np.ndarray, tree: cKDTree) -> np.ndarray:
    """Distance to the sixth neighbour, cut: dense detail gets small discs, lone points no huge ones."""
    distance, _ = tree.query(points, k=min(7, len(points)))
    reach = distance.reshape(len(points), -1)[:, -1]
    return np.minimum(reach, 1.5 * np.median(reach))
